import re

import pytest
import torch

from benchmarks.sigma_readings import closed_form_sigma
from op4ksr_core.errors import SettingError
from op4ksr_core.model import flow


def test_packing_equals_diffusers():
    from diffusers import FluxPipeline

    z = torch.randn(2, 16, 6, 10)
    tokens = FluxPipeline._pack_latents(z, 2, 16, 6, 10)
    assert torch.equal(flow.pack(z), tokens)
    assert torch.equal(flow.unpack(tokens, 6, 10), z)


def test_ids_equal_diffusers():
    from diffusers import FluxPipeline

    theirs = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(flow.image_ids(6, 10), theirs)


def test_one_step_recovers_hr_exactly_from_its_own_state():
    z_hr, noise = torch.randn(2, 4, 8, 8).double(), torch.randn(2, 4, 8, 8).double()
    state = 0.7 * z_hr + 0.3 * noise
    out = flow.euler(state, lambda z, sigma: noise - z_hr, flow.sigma_schedule(0.3))
    torch.testing.assert_close(out, z_hr)


def test_the_latent_goes_in_unscaled_and_sigma_as_it_is():
    seen = []
    z = torch.randn(1, 4, 4, 4)
    flow.euler(z, lambda state, sigma: seen.append((state.clone(), sigma)) or torch.zeros_like(state), [0.3, 0.0])
    assert torch.equal(seen[0][0], z) and seen[0][1] == 0.3


def test_more_steps_approach_the_true_trajectory():
    # dz/dsigma = z has the solution z(0) = z(s) exp(-s); Euler's error falls with the step count.
    z = torch.ones(1, 1, 2, 2).double()
    exact = torch.exp(torch.tensor(-0.5).double())
    errors = [
        abs(float(flow.euler(z, lambda x, s: x, flow.sigma_schedule(0.5, n))[0, 0, 0, 0] - exact)) for n in (1, 4, 16)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


def test_schedule():
    assert flow.sigma_schedule(0.3) == [0.3, 0.0]
    assert flow.sigma_schedule(1.0, 4) == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("sigma", [0, -0.1, 1.01, float("nan")])
def test_bad_sigma(sigma):
    with pytest.raises(SettingError, match=f"sigma.*got {re.escape(str(sigma))}"):
        flow.sigma_schedule(sigma)


def test_bad_steps():
    with pytest.raises(SettingError, match="step.*got 0"):
        flow.sigma_schedule(0.3, 0)


@pytest.mark.parametrize("distance", [0.1, 0.5, 2.0])
def test_sigma_estimators_agree_on_one_pair(distance):
    z_hr = torch.randn(1, 16, 32, 32)
    z_lr = z_hr + distance * torch.randn_like(z_hr)
    closed = closed_form_sigma(z_hr, z_lr)
    assert closed == pytest.approx(distance / (1 + distance), rel=0.03)
    assert flow.estimate_sigma([(z_hr, z_lr)]) == pytest.approx(closed, abs=1e-3)


def test_sigma_of_several_pairs_lies_between_theirs():
    z = torch.randn(1, 16, 32, 32)
    near, far = z + 0.2 * torch.randn_like(z), z + 0.6 * torch.randn_like(z)
    both = flow.estimate_sigma([(z, near), (z, far)])
    assert closed_form_sigma(z, near) - 1e-3 <= both <= closed_form_sigma(z, far) + 1e-3


def test_sigma_needs_differing_pairs():
    z = torch.randn(1, 4, 4, 4)
    with pytest.raises(SettingError, match="identical"):
        flow.estimate_sigma([(z, z)])
    with pytest.raises(SettingError, match="At least one latent pair"):
        flow.estimate_sigma([])


def test_noise_runs_from_the_picture_to_the_trained_state():
    z, eps = torch.randn(1, 4, 8, 8), flow.draw_noise((1, 4, 8, 8), 7)
    assert torch.equal(flow.add_noise(z, eps, 0.3, 0.0), z)
    torch.testing.assert_close(flow.add_noise(z, eps, 0.3, 1.0), 0.7 * z + 0.3 * eps)
    torch.testing.assert_close(flow.add_noise(z, eps, 0.3, 0.5), 0.5 * z + 0.5 * (0.7 * z + 0.3 * eps))
    assert torch.equal(eps, flow.draw_noise((1, 4, 8, 8), 7)) and not torch.equal(eps, flow.draw_noise(eps.shape, 8))
    with pytest.raises(SettingError, match=r"Noise.*1\.1"):
        flow.add_noise(z, eps, 0.3, 1.1)
