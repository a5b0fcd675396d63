"""Real-ESRGAN's degradation: how often each step is taken is as the paper says (arXiv 2107.10833)."""

import io
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from op4ksr_core.geometry import Size
from op4ksr_core.train.degradation.apply import apply, blur, degrade
from op4ksr_core.train.degradation.draw import Step, draw, sinc
from op4ksr_core.train.degradation.jpeg import jpeg
from op4ksr_core.train.degradation.presets import DEGRADATIONS, EMBEDDED, KERNELS, OMGSR, REAL_ESRGAN
from recipes.scenes import render

COUNT, SIDE = 3000, 256


@pytest.fixture(scope="module")
def plans():
    return [draw(Size(SIDE, SIDE), torch.Generator().manual_seed(n), REAL_ESRGAN) for n in range(COUNT)]


def near(count, share, of=COUNT):
    """Within four deviations of a binomial count."""
    return abs(count - share * of) < 4 * math.sqrt(share * (1 - share) * of) + 1


def firsts(plans, kind):
    return [next(step for step in plan if step.kind == kind) for plan in plans]


@pytest.mark.long
def test_first_resize_goes_up_down_and_keeps_by_20_70_10(plans):
    found = Counter((s.strength > 1) - (s.strength < 1) for s in firsts(plans, "resize"))
    assert near(found[1], 0.2) and near(found[-1], 0.7) and near(found[0], 0.1)
    factors = [s.strength for s in firsts(plans, "resize")]
    assert 0.15 <= min(factors) < 0.2 and 1.45 < max(factors) <= 1.5


def test_resizers_are_drawn_alike(plans):
    found = Counter(step.name for plan in plans for step in plan if step.kind == "resize")
    assert all(near(found[name], 1 / 3, found.total()) for name in ("area", "bilinear", "bicubic"))


def test_kernels_by_their_odds_and_sinc_in_one_of_ten(plans):
    first = [plan[0] for plan in plans]
    assert near(sum(step.kind == "sinc" for step in first), 0.1)
    blurs = Counter(step.name for step in first if step.kind == "blur")
    for name, share in zip(KERNELS, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True):
        assert near(blurs[name], share, blurs.total()), name
    sides = {step.kernel.shape[0] for step in first}
    assert sides == set(range(7, 22, 2))


def test_noise_is_gaussian_or_poisson_and_grey_in_two_of_five(plans):
    noises = firsts(plans, "noise")
    assert near(sum(step.name == "gaussian" for step in noises), 0.5) and near(sum(s.grey for s in noises), 0.4)
    strengths = [step.strength for step in noises if step.name == "gaussian"]
    assert min(strengths) >= 1 and max(strengths) <= 30


def test_the_second_blur_comes_in_four_of_five(plans):
    def second(plan):
        start = next(n for n, step in enumerate(plan) if step.kind == "jpeg") + 1
        return plan[start].kind in ("blur", "sinc")

    assert near(sum(map(second, plans)), 0.8)


def test_the_last_sinc_comes_in_four_of_five_before_or_after_the_last_jpeg(plans):
    ends = Counter(tuple(step.kind for step in plan[-3:]) for plan in plans)
    with_sinc = ends["resize", "sinc", "jpeg"] + ends["jpeg", "resize", "sinc"]
    assert (
        near(with_sinc, 0.8) and near(ends["resize", "sinc", "jpeg"], 0.4) and near(ends["jpeg", "resize", "sinc"], 0.4)
    )


def test_beta_lies_below_1_in_half_of_the_generalised_kernels(plans):
    """basicsr's random_bivariate_generalized_Gaussian and random_bivariate_plateau: half U[low, 1], half U[1, high]."""
    blurs = [step for plan in plans for step in plan if step.kind == "blur"]
    generalised = [step.beta for step in blurs if step.name.startswith("generalised")]
    below = [beta for beta in generalised if beta < 1]
    above = [beta for beta in generalised if beta > 1]
    assert near(len(below), 0.5, len(generalised))
    assert 0.5 <= min(below) < 0.52 and np.mean(below) == pytest.approx(0.75, abs=0.03)
    assert 3.9 < max(above) <= 4 and np.mean(above) == pytest.approx(2.5, abs=0.15)
    plateau = [step.beta for step in blurs if step.name.startswith("plateau")]
    ones = [beta for beta in plateau if beta == 1]
    assert near(len(ones), 0.5, len(plateau)) and 1.9 < max(plateau) <= 2
    assert {step.beta for step in blurs if step.name.endswith("isotropic")} == {1.0}


def test_the_last_sinc_cuts_off_from_a_third_of_pi(plans):
    """The others may cut off from a fifth of pi where their side is 13 px or more."""
    last = [plan[-1] if plan[-1].kind == "sinc" else plan[-2] for plan in plans]
    cutoffs = [step.strength for step in last if step.kind == "sinc"]
    assert math.pi / 3 <= min(cutoffs) < math.pi / 3 + 0.02 and max(cutoffs) > math.pi - 0.02
    assert np.mean(cutoffs) == pytest.approx(2 / 3 * math.pi, abs=0.05)
    first = [plan[0] for plan in plans if plan[0].kind == "sinc"]
    assert math.pi / 5 <= min(step.strength for step in first) < math.pi / 4


OF_REFERENCES = {
    "real-esrgan": (4, (0.05563, 0.08768, 0.03500), (0.01369, 0.05368, 0.02279)),
    "omgsr-f": (8, (0.05006, 0.10942, 0.03324), (0.00813, 0.06017, 0.02182)),
}
"""Scale, means and deviations of `damage` over 1,500 (omgsr-f: 400) small pictures that the references' own code made
of `render(256, 7)` with its seeds at 0: `RealESRGAN_degradation.degrade_process` of OSEDiff (dataloaders/realesrgan.py,
Real-ESRGAN's numbers) on BasicSR's functions at 8d56e3a, and of OMGSR (dataset/realesrgan.py, resolution 1024) at
8996613. Only torchvision's `rgb_to_grayscale` was written anew for the run."""


def damage(small, hr):
    """RMS distance from the area-averaged picture, RMS of the Laplacian, and that of red minus blue."""
    clean = torch.nn.functional.interpolate(hr[None], size=small.shape[-2:], mode="area")[0]
    centre, up, down = small[:, 1:-1, 1:-1], small[:, :-2, 1:-1], small[:, 2:, 1:-1]
    laplacian = 4 * centre - up - down - small[:, 1:-1, :-2] - small[:, 1:-1, 2:]
    return [float(x.pow(2).mean().sqrt()) for x in (small - clean, laplacian, laplacian[0] - laplacian[2])]


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_REFERENCES)
def test_small_pictures_are_as_damaged_as_those_of_the_references_own_code(name):
    """Within four standard errors of the mean of 100."""
    scale, means, deviations = OF_REFERENCES[name]
    hr, how = render(256, 7), DEGRADATIONS[name].at_scale(scale)
    found = np.array([damage(degrade(hr, torch.Generator().manual_seed(n), how), hr) for n in range(100)])
    for ours, mean, deviation in zip(found.mean(0), means, deviations, strict=True):
        assert abs(ours - mean) < 4 * deviation / math.sqrt(100), (ours, mean)


@pytest.mark.parametrize(
    "quality, px",
    [(35, (0.793265, 0.849301, 0.841548)), (60, (0.826480, 0.842342, 0.823047)), (90, (0.825357, 0.843391, 0.82388))],
)
def test_jpeg_is_that_of_the_training_code(quality, px):
    """One px of what BasicSR's DiffJPEG (8d56e3a) makes of this picture, whose sides are no multiples of 16."""
    made = jpeg(render(128, 2)[None, :, :70, :90], quality, "diffjpeg")
    assert made[0, :, 11, 17].tolist() == pytest.approx(px, abs=1e-5)


def test_shot_noise_has_as_many_photons_as_the_picture_has_levels():
    """Rounded up to a power of 2, as BasicSR counts them: 2 levels give noise 11 times as strong as 256."""
    ramp = torch.linspace(0, 1, 256).round(decimals=6).repeat(3, 256, 1)[None]
    two = (ramp > 0.5).float() * 0.5 + 0.25
    for picture, photons in ((ramp, 256), (two, 2)):
        made = apply(Step("noise", "poisson", 0.05), picture, torch.Generator().manual_seed(0)) - picture
        inner = picture > 0.2
        wanted = 0.05 * float((picture[inner] / photons).mean().sqrt())
        assert float(made[inner].std()) == pytest.approx(wanted, rel=0.05)


def test_the_small_picture_has_256_levels(photo):
    small = degrade(photo[0, :, :96, :128], torch.Generator().manual_seed(3), REAL_ESRGAN) * 255
    assert torch.allclose(small, small.round(), atol=1e-4)


def test_a_sinc_filter_passes_low_and_stops_high_frequencies():
    kernel = sinc(math.pi / 2, 21)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5) and float(kernel.min()) < 0
    n = torch.arange(21) - 10
    passed = float((kernel * torch.cos(math.pi / 5 * n)).sum())
    stopped = float((kernel * torch.cos(0.9 * math.pi * n)).sum())
    assert passed == pytest.approx(1, abs=0.1) and stopped == pytest.approx(0, abs=0.1)


def test_none_gives_the_picture_itself(photo):
    picture = photo[0, :, :96, :128]
    assert torch.equal(degrade(picture, torch.Generator().manual_seed(3), DEGRADATIONS["none"]), picture)


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name != "none"])
def test_every_preset_gives_a_quarter_of_the_side(name, photo):
    picture, how = photo[0, :, :96, :128], DEGRADATIONS[name].at_scale(4)
    small = degrade(picture, torch.Generator().manual_seed(3), how)
    again = degrade(picture, torch.Generator().manual_seed(3), how)
    assert small.shape == (3, 24, 32) and torch.equal(small, again)
    assert float(small.min()) >= 0 and float(small.max()) <= 1
    assert float((small.mean((1, 2)) - picture.mean((1, 2))).abs().max()) < 0.1


def test_noise_of_a_known_strength():
    flat = torch.full((1, 3, 200, 200), 0.5)
    made = apply(Step("noise", "gaussian", 10.0), flat, torch.Generator().manual_seed(0)) - flat
    assert float(made.std()) == pytest.approx(10 / 255, rel=0.02)
    for name in ("gaussian", "poisson"):
        grey = apply(Step("noise", name, 0.1, grey=True), flat, torch.Generator().manual_seed(0))
        assert torch.equal(grey[:, 0], grey[:, 1]) and float(grey.std()) > 0


def test_the_embedded_degradation_is_the_milder_one():
    def error(settings):
        errors = []
        for seed in range(12):
            hr = render(128, seed)
            clean = torch.nn.functional.interpolate(hr[None], size=(32, 32), mode="bicubic", antialias=True)[0]
            errors.append(float((degrade(hr, torch.Generator().manual_seed(seed), settings) - clean).pow(2).mean()))
        return np.mean(errors)

    assert error(EMBEDDED) < 0.6 * error(OMGSR)


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
def test_jpeg_loses_what_a_real_encoder_loses(quality):
    x = render(128, 2)
    file = io.BytesIO()
    Image.fromarray((x.permute(1, 2, 0) * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
    real = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    ours = jpeg(x[None], quality)[0]
    assert float((ours - real).abs().mean()) < 0.5 * float((real - x).abs().mean())


def test_jpeg_of_odd_sides():
    assert jpeg(torch.rand(1, 3, 19, 33), 80).shape == (1, 3, 19, 33)


def test_blur_keeps_the_mean_and_a_constant():
    kernel = torch.rand(7, 7)
    kernel /= kernel.sum()
    torch.testing.assert_close(blur(torch.full((1, 3, 20, 20), 0.3), kernel), torch.full((1, 3, 20, 20), 0.3))
