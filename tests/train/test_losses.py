import math
import re
from itertools import pairwise

import pytest
import torch

from op4ksr_core.errors import ImageError, SettingError, WeightsError
from op4ksr_core.lattice.autocorrelation import LAGS, autocorrelation, autocorrelation_loss, highpass
from op4ksr_core.model.flow import clean_latent
from op4ksr_core.picture.tiles import even_starts
from op4ksr_core.train.losses.adversarial import BlurPool, diff_augment, discriminator_loss, generator_loss
from op4ksr_core.train.losses.lrr import latent_refinement_loss
from op4ksr_core.train.losses.perceptual import windowed_distance
from op4ksr_core.train.losses.vsd import VSDLoss, vsd_loss
from op4ksr_core.train.losses.wavelet import haar, wavelet_loss
from op4ksr_core.train.networks import load_discriminator, load_lpips


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
    with pytest.raises(ImageError, match="40 px.*100x40 px"):
        autocorrelation_loss(torch.rand(1, 3, 80, 200), torch.rand(1, 3, 80, 200))


def test_how_little_a_lattice_weighs():
    """A woven lattice of amplitude a adds (a^2 / 4)^2 at two of the five lags: 1.5e-9 for 4/255."""
    wave, amplitude = torch.sin(2 * math.pi * torch.arange(256) / 32), 4 / 255
    flat = torch.full((1, 3, 256, 256), 0.5)
    found = float(autocorrelation_loss(flat + amplitude * wave[:, None] * wave, flat))
    assert found == pytest.approx(0.4 * (amplitude**2 / 4) ** 2, rel=0.05) and found == pytest.approx(1.5e-9, rel=0.05)


def test_normalised_l_ap_lets_flat_quadrants_count():
    """A lattice in the flat half counts as much as contrast does in the busy one; plainly it hardly counts."""
    target = 0.5 + torch.cat([0.002 * torch.randn(1, 3, 192, 96), 0.2 * torch.randn(1, 3, 192, 96)], -1)
    wave = torch.sin(2 * math.pi * torch.arange(96) / 32)
    marked, brighter = target.clone(), target.clone()
    marked[..., :96] += 0.01 * wave
    brighter[..., 96:] = 0.5 + 1.1 * (target[..., 96:] - 0.5)

    def share(normalise):
        a, b = (float(autocorrelation_loss(x, target, normalise=normalise)) for x in (marked, brighter))
        return a / (a + b)

    assert share("variance") > 0.9 > 0.5 > share("none")


def _textured(lattice, amplitude):
    """A picture with strong low frequencies, and the same with a 32-px lattice over it: (marked, truth, amplitude)."""
    smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6), size=(256, 256), mode="bicubic")
    truth = 0.2 + 0.6 * smooth + 0.01 * torch.randn(1, 1, 256, 256)
    amplitude = torch.tensor(amplitude / 255, requires_grad=True)
    return truth + amplitude * lattice, truth, amplitude


WAVE = torch.cos(2 * math.pi * torch.arange(256) / 32)
CELLS = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).repeat(8, 8)


@pytest.mark.parametrize(("form", "lattice"), [("box", WAVE), ("box", CELLS), ("binomial", CELLS)])
def test_highpassed_l_ap_pulls_at_a_faint_lattice(form, lattice):
    """The slope at 1/255 takes the lattice away, and is a thousand times that of 1000 literal L_AP."""
    marked, truth, amplitude = _textured(lattice, 1.0)
    autocorrelation_loss(marked, truth, normalise="variance", highpassed=form).backward()
    pull = float(amplitude.grad)
    marked, truth, amplitude = _textured(lattice, 1.0)
    (1000 * autocorrelation_loss(marked, truth)).backward()
    assert pull > 1000 * abs(float(amplitude.grad)) and pull > 0


def test_the_binomial_highpass_is_blind_to_a_smooth_wave_of_a_token():
    pulls = {}
    for form in ("box", "binomial"):
        marked, truth, amplitude = _textured(WAVE, 1.0)
        autocorrelation_loss(marked, truth, normalise="variance", highpassed=form).backward()
        pulls[form] = float(amplitude.grad)
    assert pulls["box"] > 1000 * abs(pulls["binomial"])


def test_highpass_of_known_pictures():
    flat, wave = torch.full((1, 2, 64, 64), 0.3), torch.tensor([1.0, -1.0]).repeat(32).expand(1, 1, 64, 64)
    for kind in ("binomial", "box"):
        assert float(highpass(flat, kind).abs().max()) < 1e-6
    torch.testing.assert_close(highpass(wave, "binomial")[..., 2:-2], wave[..., 2:-2])  # at Nyquist nothing is lost
    assert highpass(flat, "none") is flat
    with pytest.raises(SettingError, match=r"highpass.*'boxx'.*\bbox\?"):
        highpass(flat, "boxx")
    with pytest.raises(ImageError, match="33 px.*got 16x64 px"):
        highpass(flat[..., :16], "box")


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


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: autocorrelation_loss(a, b, lags=(2, 3)),
        lambda a, b: wavelet_loss(a, b, delta=10.0),
        lambda a, b: latent_refinement_loss(a, b, torch.ones_like(b), 0.3),
        lambda a, b: windowed_distance(lambda x, y: (x - y).square().mean((1, 2, 3)), a, b, 5, 2),
        lambda a, b: generator_loss([a, b]),
        lambda a, b: discriminator_loss([a], [b]),
        lambda a, b: diff_augment(a, [1, 2]).square().mean() + 0 * b.sum(),
    ],
    ids=["l_ap", "wavelet", "l_vae", "lpips windows", "generator", "discriminator", "diffaugment"],
)
def test_gradients_are_those_of_the_values(loss):
    torch.manual_seed(1)
    a, b = (torch.rand(2, 3, 8, 12, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: loss(x, b), a.requires_grad_())


@pytest.mark.parametrize("length", [1, 5, 224, 256, 257, 500, 1000, 4096])
@pytest.mark.parametrize(("window", "overlap"), [(256, 32), (224, 0), (7, 6)])
def test_lpips_windows_cover_every_pixel(length, window, overlap):
    starts = even_starts(length, window, overlap)
    covered = torch.zeros(length, dtype=torch.bool)
    for start in starts:
        assert start >= 0 and (start + window <= length or start == 0)
        covered[start : start + window] = True
    assert covered.all() and len(starts) == len(set(starts))
    steps = [b - a for a, b in pairwise(starts)]
    assert all(step <= window - overlap for step in steps)


def test_windowed_distance_against_loops():
    a, b = torch.rand(2, 3, 70, 50), torch.rand(2, 3, 70, 50)
    found = windowed_distance(lambda x, y: (x - y).abs().mean((1, 2, 3)), a, b, 32, 8)
    total, count = 0.0, 0
    for top in even_starts(70, 32, 8):
        for left in even_starts(50, 32, 8):
            x, y = (p[:, :, top : top + 32, left : left + 32] * 2 - 1 for p in (a, b))
            total, count = total + float((x - y).abs().mean()), count + 1
    assert float(found) == pytest.approx(total / count, rel=1e-5)
    whole = windowed_distance(lambda x, y: (x - y).abs().mean((1, 2, 3)), a, b, 256)
    assert float(whole) == pytest.approx(2 * float((a - b).abs().mean()), rel=1e-5)


def test_lpips_without_its_network_names_the_file(tmp_path):
    for given, named in (("", "no file"), (tmp_path / "nowhere.pth", r"nowhere\.pth")):
        with pytest.raises(WeightsError, match=rf"vgg16-397923af\.pth.*--lpips-weights.*got .*{named}"):
            load_lpips(given)
    with pytest.raises(SettingError, match="side of 8.*overlap 8"):
        even_starts(100, 8, 8)


def test_adversarial_losses_against_their_formulas():
    real, fake = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)

    def bce(logits, target):
        p = torch.sigmoid(logits)
        return float(-(target * p.log() + (1 - target) * (1 - p).log()).mean())

    assert float(discriminator_loss([real], [fake])) == pytest.approx((bce(real, 0.8) + bce(fake, 0.0)) / 2, rel=1e-4)
    assert float(generator_loss([fake])) == pytest.approx(bce(fake, 0.8), rel=1e-4)
    hinge = ((1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()) / 2
    assert float(discriminator_loss([real], [fake], "hinge")) == pytest.approx(float(hinge), rel=1e-5)
    assert float(generator_loss([fake, real], "hinge")) == pytest.approx(-float(fake.mean() + real.mean()), rel=1e-4)
    assert float(generator_loss([fake, fake])) == pytest.approx(2 * bce(fake, 0.8), rel=1e-4)  # levels are summed


def test_blur_pooling_halves_and_keeps_a_constant():
    pool = BlurPool(2)
    assert torch.allclose(pool(torch.full((1, 2, 8, 10), 0.7)), torch.full((1, 2, 4, 5), 0.7))
    chequered = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 2, 16, 16)
    assert float(pool(chequered)[..., 1:-1].abs().max()) < 1e-6  # what plain striding would make a constant of


def test_lpips_windows_can_be_drawn_and_are_not_kept():
    """Drawn windows differ by seed; no activation of the network is kept for the backward pass."""
    kept = []

    def distance(a, b):
        kept.append(torch.is_grad_enabled())
        return ((a - b) ** 2).mean((1, 2, 3))

    a, b = torch.rand(1, 3, 64, 64, requires_grad=True), torch.rand(1, 3, 64, 64)
    whole = windowed_distance(distance, a, b, 16, 0)
    first, second = (windowed_distance(distance, a, b, 16, 0, draw=3, seed=s) for s in (1, 2))
    assert float(first.detach()) != float(second.detach()) and float(whole.detach()) > 0
    before = len(kept)
    whole.backward()
    assert len(kept) == before + 16  # each window was computed once more
    [found] = torch.autograd.grad(windowed_distance(distance, a, b, 16, 0), a)
    torch.testing.assert_close(found, 4 * 2 * (a - b).detach() / a.numel())


def test_diffaugment_is_by_seed_and_keeps_the_size():
    x = torch.rand(2, 3, 32, 40)
    a, b = diff_augment(x, [1, 2]), diff_augment(x, [1, 3])
    assert a.shape == x.shape and torch.equal(a, diff_augment(x, [1, 2]))
    assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])
    assert not torch.equal(a, x)


@pytest.fixture
def features(tmp_path):
    """A tiny DINOv3-ConvNeXt with random weights, as transformers saves it."""
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    torch.manual_seed(3)
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=64)
    DINOv3ConvNextModel(config).save_pretrained(tmp_path / "features")
    return tmp_path / "features"


def test_a_discriminator_learns_to_tell_two_textures(features):
    critic = load_discriminator(features).train()
    assert not critic.features.training and not any(p.requires_grad for p in critic.features.parameters())
    optimizer = torch.optim.AdamW([p for p in critic.parameters() if p.requires_grad], lr=3e-3)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), size=(64, 64), mode="bilinear")
    rough = torch.rand(4, 3, 64, 64)
    losses = []
    for _ in range(30):
        loss = discriminator_loss(critic(smooth), critic(rough))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert len(critic(smooth)) == 3 and losses[-1] < 0.85 * losses[0]


def test_a_discriminator_without_its_network_names_the_folder(tmp_path):
    for given, named in (("", "none"), (tmp_path, re.escape(str(tmp_path)))):
        with pytest.raises(WeightsError, match=f"--features FOLDER.*got {named}"):
            load_discriminator(given)


def test_vsd_moves_the_latent_along_the_difference_of_the_priors():
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    fixed, updated = torch.randn(2, 4, 8, 8).double(), torch.randn(2, 4, 8, 8).double()
    vsd_loss(z, fixed, updated).backward()
    for n in range(2):
        distance = (z[n] - fixed[n]).abs().mean().detach()
        torch.testing.assert_close(z.grad[n], 2 / z.numel() * (updated[n] - fixed[n]) / distance)
    with torch.no_grad():
        assert float(vsd_loss(z, fixed, fixed)) == 0


def test_vsd_module_is_guidance_and_the_clean_estimate():
    z, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    sigma = torch.tensor([0.3, 0.8])
    s = sigma.view(-1, 1, 1, 1)
    state, velocity = (1 - s) * z + s * noise, noise - z
    torch.testing.assert_close(clean_latent(state, velocity, sigma), z, rtol=1e-4, atol=1e-5)
    other = velocity + 0.1
    expected = vsd_loss(z, clean_latent(state, other + 7.5 * (velocity - other), sigma), z)
    assert float(VSDLoss()(z, state, sigma, velocity, other, velocity)) == pytest.approx(float(expected), rel=1e-3)


def test_losses_of_half_precision_are_single():
    a, b = torch.rand(1, 3, 96, 96).bfloat16(), torch.rand(1, 3, 96, 96).bfloat16()
    found = [autocorrelation_loss(a, b), wavelet_loss(a, b), latent_refinement_loss(a, b, torch.zeros_like(a), 0.3)]
    assert all(loss.dtype == torch.float32 for loss in found)
