import math
from dataclasses import replace

import pytest
import torch

from op4ksr_core.diagnostics import sweep
from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import LongSide
from op4ksr_core.lattice.spectrum import luma255
from op4ksr_core.settings import PRESETS, RopeSettings


def trial(theta, score, sharpness, sigma=0.3, change=0.0):
    crop = torch.full((3, 64, 64), 0.5)
    return sweep.Trial(theta, sigma, score, 0.0, 0.0, sharpness, change, crop, crop[:, :32, :32])


def test_settings_are_every_pair():
    assert sweep.settings_of([10, 100], [0.3, 0.7]) == [(10, 0.3), (100, 0.3), (10, 0.7), (100, 0.7)]
    assert sweep.numbers_of(" 10, 1e2 ,") == [10, 100]


@pytest.mark.parametrize(
    ("thetas", "sigmas", "message"),
    [
        ([], [0.3], "at least one theta"),
        ([100], [], "at least one sigma"),
        ([100, 10, 100], [0.3], "theta.*got 100, 10, 100"),
        ([1], [0.3], "theta.*got 1"),
        ([100], [1.5], r"sigma.*got 1\.5"),
        ([math.nan], [0.3], "theta.*got nan"),
    ],
)
def test_bad_lists_are_named(thetas, sigmas, message):
    with pytest.raises(SettingError, match=message):
        sweep.settings_of(thetas, sigmas)


def test_words_are_not_numbers():
    with pytest.raises(SettingError, match="'10; 100'"):
        sweep.numbers_of("10; 100")


def test_best_is_clean_first_then_sharp():
    assert sweep.best([trial(10, 0.0, 10), trial(100, 0.04, 20), trial(1000, 0.9, 90)]).theta == 100
    assert sweep.best([trial(10, 0.9, 90), trial(100, 0.5, 10)]).theta == 100
    assert sweep.best([trial(10, 0.0, 100.0), trial(100, 0.0, 100.5)]).theta == 10  # as sharp: the first given


def test_a_32_px_pitch_that_compensation_hides_is_not_best():
    hidden = replace(trial(10, 0.0, 90), decibels=8.0)
    assert sweep.best([hidden, trial(100, 0.0, 10)]).theta == 100


def test_where_every_setting_has_the_32_px_pitch_the_report_says_so():
    loud = [replace(trial(theta, 0.0, 10), decibels=decibels) for theta, decibels in ((10, 12.0), (100, 8.0))]
    assert sweep.best(loud).theta == 100
    assert any("8.0 dB" in line for line in sweep.sentences(loud)[2:])
    assert not any("free of" in line for line in sweep.sentences([*loud, trial(1000, 0.0, 5)]))


def test_a_lattice_before_compensation_counts(photo):
    clean = torch.nn.functional.interpolate(photo, scale_factor=2, mode="bicubic").clamp(0, 1)[0]
    wave = torch.sin(2 * math.pi * torch.arange(1024) / 32)
    plain = clean + 4 / 255 * wave[:, None] * wave
    judged = sweep.judge(100, 0.3, clean, sweep.choose_frames(clean), small_chw=photo[0], plain_chw=plain)
    assert judged.score > 0.9 and judged.period == 32 and judged.decibels > 3


def test_frames_find_detail_and_flat(photo):
    x = torch.full((3, 1024, 1024), 0.5)
    x[:, 600:900, 100:400] = torch.rand(3, 300, 300)
    x[:, :300] = 1.0  # white, and flatter than anything
    x[:, 300:, 500:] += 0.002 * torch.randn(3, 724, 524)
    frames = sweep.choose_frames(x)
    assert 590 <= frames.detail[0] <= 660 and 90 <= frames.detail[1] <= 160 and frames.side == 256
    assert frames.flat[0] > 300 - 64 and frames.flat_side == 128
    crop = x[:, frames.flat[0] : frames.flat[0] + 128, frames.flat[1] : frames.flat[1] + 128]
    assert 10 < float(luma255(crop).mean()) < 245 and float(luma255(crop).std()) < 1
    small = sweep.choose_frames(photo[0, :, :40, :50])
    assert small.side == 40 and small.detail[0] == 0


def test_sharpness_is_the_variance_of_the_laplacian(photo):
    y = luma255(photo[0]).double()
    kernel = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]).double()
    slow = torch.nn.functional.conv2d(y[None, None], kernel[None, None])[0, 0].var()
    assert sweep.sharpness(photo[0]) == pytest.approx(float(slow), rel=1e-4)
    assert sweep.sharpness(torch.full((3, 40, 40), 0.3)) == pytest.approx(0, abs=1e-6)


def test_a_planted_lattice_is_judged_and_shown(photo):
    clean = torch.nn.functional.interpolate(photo, scale_factor=2, mode="bicubic").clamp(0, 1)[0]
    wave = torch.sin(2 * math.pi * torch.arange(1024) / 32)
    frames = sweep.choose_frames(clean)
    first = sweep.judge(100, 0.3, clean, frames)
    marked = sweep.judge(10_000, 0.3, clean + 4 / 255 * wave[:, None] * wave, frames, first)
    assert first.score < 0.1 and first.change == 0
    assert marked.score > 0.9 and marked.period == 32 and marked.decibels > first.decibels + 1
    assert marked.change == pytest.approx(4 * (2 / math.pi) ** 2, rel=0.1)
    assert sweep.best([marked, first]) is first
    lines = sweep.sentences([first, marked])
    assert "(period 32 px)" in lines[1] and lines[2].endswith("theta 100, sigma 0.3.") and len(lines) == 3
    shown = sweep.boosted(marked.flat) - sweep.boosted(first.flat)
    assert float(shown.std()) == pytest.approx(16 * 4 / 255 / 2, rel=0.2)  # of a product of sines: half its amplitude


@pytest.mark.parametrize(("thetas", "sigmas"), [([100], [0.3]), ([10, 100, 1000], [0.3, 0.7])])
def test_sheet_and_plot_hold_every_trial(thetas, sigmas):
    trials = [trial(t, n / 10, 10 + n, s) for n, (t, s) in enumerate(sweep.settings_of(thetas, sigmas))]
    sheet = sweep.contact_sheet(trials)
    assert sheet.width >= 208 * len(thetas) and sheet.height >= (46 + 128) * len(sigmas)
    assert sweep.plot(trials).size == (640, 900)
    assert "hardly depends" in sweep.sentences(trials)[-1] or len(trials) == 1


def test_variants_are_encoded_once_and_equal_single_calls(embedded, photo):
    x, phases = photo[..., :128, :128], []
    settings = [
        replace(PRESETS["embedded"], sigma=s, rope=RopeSettings(t)) for t, s in sweep.settings_of([10, 10_000], [0.7])
    ]
    variants = list(
        embedded.variants(x, settings, LongSide(256), progress=lambda p, d, n: phases.append(p) if d == 0 else None)
    )
    assert phases == ["encode", "transform", "decode", "transform", "decode"]
    for one, variant in zip(settings, variants, strict=True):
        assert torch.equal(variant.picture, embedded(x, LongSide(256), settings=one))
        assert variant.before.shape == variant.after.shape == (1, 64, 16, 16)
    assert not torch.equal(variants[0].after, variants[1].after)
    [latents] = embedded.variants(x, settings[:1], LongSide(256), decode=False)
    assert torch.equal(latents.after, variants[0].after) and latents.picture.numel() == 0


def test_variants_of_two_seeds_are_refused(embedded, photo):
    settings = [replace(PRESETS["embedded"], posterior_seed=seed) for seed in (None, 1)]
    with pytest.raises(SettingError, match="posterior seed.*None"):
        next(embedded.variants(photo, settings))


@pytest.mark.long
def test_the_embedded_model_leaves_a_lattice_far_from_its_sigma(embedded, photo):
    """Trained at 0.3 alone, its raw drawing at 0.7 has the 32-px lattice of the paper: the instruments see it."""
    raw = replace(PRESETS["embedded"], fidelity=0.0, colour="none", compensation=0.0)
    settings = [replace(raw, sigma=sigma) for sigma in (0.3, 0.7)]
    variants = list(embedded.variants(photo, settings, LongSide(1024)))
    frames = sweep.choose_frames(variants[0].picture[0])
    trials = [sweep.judge(100, v.settings.sigma, v.picture[0], frames) for v in variants]
    assert trials[0].score < 0.1 and trials[1].score > 0.5 and trials[1].period == 32
    assert sweep.best(trials).sigma == 0.3
