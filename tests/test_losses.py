import pytest
import torch

from op4ksr_core.errors import ImageError
from op4ksr_core.losses.autocorrelation import LAGS, autocorrelation, autocorrelation_loss
from op4ksr_core.losses.lrr import latent_refinement_loss
from op4ksr_core.losses.wavelet import haar, wavelet_loss


def _slow_loss(prediction, target):
    """L_AP as the paper writes it: loops over quadrants, channels, axes and lags."""
    batch, channels, height, width = prediction.shape
    total = 0.0
    for b in range(batch):
        for top, left in ((0, 0), (0, width // 2), (height // 2, 0), (height // 2, width // 2)):
            for c in range(channels):
                for axis in (0, 1):
                    for lag in LAGS:
                        values = []
                        for x in (prediction, target):
                            part = x[b, c, top : top + height // 2, left : left + width // 2].double()
                            part = part - part.mean()
                            part = part.T if axis == 0 else part
                            products = part[lag:] * part[:-lag]
                            values.append(products.sum() / products.numel())
                        total += float((values[0] - values[1]) ** 2)
    return total / (2 * 4 * channels * len(LAGS) * batch)


@pytest.mark.parametrize("shape", [(1, 3, 96, 96), (2, 1, 100, 130)])
def test_l_ap_against_loops(shape):
    prediction, target = torch.rand(shape), torch.rand(shape)
    assert float(autocorrelation_loss(prediction, target)) == pytest.approx(_slow_loss(prediction, target), rel=1e-3)


def test_l_ap_sees_a_lattice_that_mse_hardly_does():
    target = torch.rand(1, 3, 128, 128) * 0.1 + 0.4
    lattice = 0.02 * torch.sin(torch.arange(128) * 2 * torch.pi / 32)
    noise = torch.randn(128, 128) * float(lattice.std())
    marked, noisy = target + lattice, target + noise
    assert float(autocorrelation_loss(marked, target)) > 50 * float(autocorrelation_loss(noisy, target))


def test_l_ap_gradients():
    prediction = torch.rand(1, 1, 90, 90, requires_grad=True)
    target = torch.rand(1, 1, 90, 90, requires_grad=True)
    loss = autocorrelation_loss(prediction, target)
    loss.backward()
    assert target.grad is None
    with torch.no_grad():
        step = 1e-2 * prediction.grad / prediction.grad.norm()
        up, down = autocorrelation_loss(prediction + step, target), autocorrelation_loss(prediction - step, target)
    assert float(up - down) / 2 == pytest.approx(float((step * prediction.grad).sum()), rel=1e-2)


def test_autocorrelation_of_a_sine_peaks_at_its_period():
    x = torch.sin(torch.arange(256) * 2 * torch.pi / 32).expand(256, 256)
    horizontal, vertical = autocorrelation(x, lags=(16, 32))
    torch.testing.assert_close(horizontal, torch.tensor([-0.5, 0.5]), atol=0.01, rtol=0)
    torch.testing.assert_close(vertical, torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)


def test_mean_removal_is_what_makes_it_see():
    dim, bright = torch.rand(1, 1, 96, 96) * 0.01 + 0.2, torch.rand(1, 1, 96, 96) * 0.01 + 0.3
    assert float(autocorrelation_loss(dim, bright)) < 1e-9
    assert float(autocorrelation_loss(dim, bright, remove_mean=False)) > 1e-4


def test_l_ap_of_a_picture_too_small():
    with pytest.raises(ImageError, match="40 px"):
        autocorrelation_loss(torch.rand(1, 3, 80, 200), torch.rand(1, 3, 80, 200))


def test_l_vae():
    z_lr = torch.randn(2, 4, 8, 8, requires_grad=True)
    z_hr, noise = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 4, 8, 8)
    loss = latent_refinement_loss(z_lr, z_hr, noise, 0.3)
    assert float(loss.detach()) == pytest.approx(
        float((0.7 * z_hr + 0.3 * noise - z_lr).detach().pow(2).mean()), rel=1e-5
    )
    loss.backward()
    assert z_hr.grad is None and z_lr.grad is not None
    assert float(latent_refinement_loss(0.7 * z_hr + 0.3 * noise, z_hr, noise, 0.3)) < 1e-12


def test_haar_is_orthonormal():
    x = torch.randn(2, 3, 16, 20)
    low, high = haar(x)
    torch.testing.assert_close(low.pow(2).sum() + high.pow(2).sum(), x.pow(2).sum())


def test_wavelet_loss_ignores_brightness_and_sees_detail():
    x = torch.rand(1, 3, 32, 32)
    assert float(wavelet_loss(x + 0.1, x)) < 1e-6
    assert float(wavelet_loss(torch.zeros_like(x), x)) > 0.1


def test_haar_gradcheck():
    # The loss works in float32, so the check runs on its parts in double precision.
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(haar, x)
