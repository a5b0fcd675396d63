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
    picture = photo[0, :, :96, :128]
    small = degrade(picture, torch.Generator().manual_seed(3), DEGRADATIONS[name])
    again = degrade(picture, torch.Generator().manual_seed(3), DEGRADATIONS[name])
    assert small.shape == (3, 24, 32) and torch.equal(small, again)
    assert float(small.min()) >= 0 and float(small.max()) <= 1
    assert float((small.mean((1, 2)) - picture.mean((1, 2))).abs().max()) < 0.1


def test_noise_of_a_known_strength():
    flat = torch.full((1, 3, 200, 200), 0.5)
    for step, deviation in (
        (Step("noise", "gaussian", 10.0), 10 / 255),
        (Step("noise", "poisson", 2.0), 2 * math.sqrt(0.5 / 255)),
    ):
        made = apply(step, flat, torch.Generator().manual_seed(0)) - flat
        assert float(made.std()) == pytest.approx(deviation, rel=0.02)
        grey = apply(Step("noise", step.name, step.strength, grey=True), flat, torch.Generator().manual_seed(0))
        assert torch.equal(grey[:, 0], grey[:, 1])


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
