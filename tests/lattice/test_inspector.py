"""The inspector and the suppressor on planted lattices, real photos and bad input."""

import math
import re
from dataclasses import replace

import pytest
import torch
from patterns import marked, scene, woven

from op4ksr_core.errors import ImageError, SettingError
from op4ksr_core.lattice.autocorrelation import autocorrelation_loss
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.lattice.report import draw_report, in_a_few_words, mask, overlay, sentences
from op4ksr_core.lattice.spectrum import comb, lattice_points, spectrum
from op4ksr_core.lattice.suppress import dithered, suppress
from op4ksr_core.lattice.waves import demodulate, waves


def test_a_clean_scene_is_clean():
    found = inspect(scene())
    assert found.verdict == "clean" and found.score < 0.1 and found.period == 0 and found.lattice is None
    assert not found.jpeg_grid and "No period stands out" in found.reason


@pytest.mark.parametrize("period", [8, 16, 31, 32, 48])
def test_a_lattice_of_one_is_found_with_its_period(period):
    found = inspect(marked(scene(), period, 1.0))
    assert found.verdict == "lattice" and found.period == period and found.score > 0.5
    assert 0.5 < found.amplitude < 1.5 and not found.jpeg_grid


def test_the_score_grows_with_the_amplitude():
    scores = [inspect(marked(scene(), 16, amplitude)).score for amplitude in (0.5, 1, 2, 8)]
    assert scores == sorted(scores) and scores[-1] > 0.95


def test_the_dominant_period_is_neither_half_nor_double():
    side = 512
    x = scene(side)
    wave = torch.arange(side)
    rich = sum(torch.cos(2 * math.pi * k * wave / 16) for k in (1, 2, 3, 5)) / 255
    found = inspect(((x + rich + rich[:, None]).clamp(0, 1) * 255).round() / 255)
    assert found.verdict == "lattice" and found.period == 16


def test_a_resized_lattice_has_a_period_between():
    """28.8 px at 900 px is told apart from 29, and followed at its own frequency."""
    found = inspect(marked(scene(900), 28.8, 2.0))
    assert found.verdict == "lattice" and found.period == pytest.approx(28.8, abs=0.15)


def test_the_heat_map_is_where_the_lattice_is():
    x = scene()
    y = x.clone()
    y[:, :256, :256] = marked(x, 16, 3.0)[:, :256, :256]
    found = inspect(y)
    heat = mask(found, y.shape[-2:])
    assert found.verdict == "lattice" and found.period == 16
    assert float(heat[32:224, 32:224].mean()) > 4 * float(heat[288:, 288:].mean())


def test_a_pattern_that_changes_its_phase_is_no_lattice():
    """Stripes of 16 px that start anew in every 64-px tile, as things in a scene do."""
    side, generator = 512, torch.Generator().manual_seed(1)
    phase = torch.rand(8, 8, generator=generator).repeat_interleave(64, 0).repeat_interleave(64, 1) * 2 * math.pi
    stripes = torch.sin(2 * math.pi * torch.arange(side) / 16 + phase) * 4 / 255
    found = inspect(scene() + stripes)
    assert found.verdict != "lattice" and found.score < 0.1


def test_jpegs_grid_is_named(tmp_path):
    from PIL import Image

    x = scene()
    Image.fromarray((x * 255).byte().movedim(0, -1).numpy()).save(tmp_path / "a.jpg", quality=30)
    from op4ksr_core.picture.read import read_picture

    found = inspect(read_picture(tmp_path / "a.jpg").rgb[0])
    assert found.jpeg_grid
    assert any("JPEG" in line for line in sentences(found))
    assert not inspect(marked(x, 8, 4.0)).jpeg_grid  # a smooth wave of 8 px is none


def test_named_periods_alone():
    x = marked(scene(), 16, 2.0)
    assert inspect(x, suspects=(16,), search=False).period == 16
    assert inspect(x, suspects=(11, 13), search=False).verdict != "lattice"
    told = inspect(x, suspects=(16, 11)).suspects
    assert told[16] > 3 > 1 > abs(told[11])


def test_ap_loss_is_that_of_training():
    x, y = scene(), marked(scene(), 16, 8.0)
    weights = torch.tensor([0.299, 0.587, 0.114])
    expected = autocorrelation_loss(*(torch.einsum("chw,c->hw", p, weights)[None, None] for p in (y, x)))
    assert inspect(y, x).ap_loss == pytest.approx(float(expected), rel=1e-3)
    assert inspect(x).ap_loss is None


def test_demodulation_and_waves_are_inverse():
    fy, fx = torch.tensor([1 / 16, 0.0]).double(), torch.tensor([-1 / 16 + 1 / 8, 1 / 32]).double()
    amplitude = torch.tensor([1.5 - 0.5j, 0.3 + 2j])
    plane = waves(amplitude, fy, fx, torch.Size([256, 320]))
    back = 2 * demodulate(plane, fy, fx, 32).sum((1, 2)) / plane.numel()
    torch.testing.assert_close(back, amplitude, atol=1e-4, rtol=1e-4)


def test_the_comb_of_noise_is_about_zero():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(512, 512, generator=generator)
    ratio = spectrum(noise, torch.ones_like(noise))
    assert float(ratio.mean()) == pytest.approx(1, abs=0.1)
    values = torch.tensor([comb(ratio, noise.shape, 1 / period) for period in range(4, 65)])
    assert float(values.abs().max()) < 6 and abs(float(values.mean())) < 1


def test_lattice_points_of_16_that_8_has_not():
    fy, fx = lattice_points(1 / 16)
    rows, columns = (fy * 16).round().long(), (fx * 16).round().long()
    assert bool((torch.gcd(rows, columns) == 1).all()) and float(torch.maximum(fy.abs(), fx).max()) <= 0.5


@pytest.mark.parametrize(("period", "amplitude"), [(8, 1.0), (16, 1.0), (16, 8.0), (32, 4.0)])
def test_suppression_takes_the_lattice_and_leaves_the_picture(period, amplitude):
    x = scene(1024)
    y = marked(x, period, amplitude)
    cleaned = suppress(y, inspect(y).lattice)
    wave = woven(1024, period, 1.0)
    before, after = (float(((p - x).mean(0) * wave).sum()) for p in (y, cleaned))
    assert (after / before) ** 2 < 0.1  # of the lattice's energy
    assert float((cleaned - x).square().mean()) < 0.5 * float((y - x).square().mean())


def test_a_clean_picture_is_returned_as_it_is():
    x = scene()
    assert torch.equal(suppress(x, inspect(x).lattice), x)


def test_alpha_and_grey():
    y = marked(scene(), 16, 2.0)
    with_alpha = torch.cat([y, torch.rand(1, 512, 512)])
    found = inspect(with_alpha)
    assert found.period == 16 and torch.equal(suppress(with_alpha, found.lattice)[3], with_alpha[3])
    assert torch.equal(dithered(with_alpha)[3], with_alpha[3]) and not torch.equal(dithered(y), y)
    grey = inspect(y[:1])
    assert grey.period == 16 and suppress(y[:1], grey.lattice).shape == (1, 512, 512)


def test_a_few_words_say_whether_it_can_be_seen():
    strong = inspect(marked(scene(), 16, 1.0))
    assert in_a_few_words(inspect(scene())) == "no lattice (score 0.00)"
    assert re.fullmatch(r"lattice of 16 px \(score 0\.\d\d\): try .*Suppress lattice", in_a_few_words(strong))
    faint = in_a_few_words(replace(strong, score=0.02))
    assert faint == "a trace of a lattice of 16 px, too faint to see (score 0.02)"


def test_report_pictures():
    y = marked(scene(), 16, 2.0)
    found = inspect(y)
    report = draw_report(y, found)
    assert report.shape[0] == 3 and report.min() >= 0 and report.max() <= 1 and float(report.std()) > 0.1
    assert overlay(y, found).shape == y.shape and mask(found, (100, 60)).shape == (100, 60)
    assert any("period 16 px" in line for line in sentences(found))


@pytest.mark.parametrize(
    ("picture", "error", "names"),
    [
        (torch.rand(3, 40, 200), ImageError, "200x40"),
        (torch.rand(3, 8, 8), ImageError, "8x8"),
        (torch.rand(1, 8, 8), ImageError, "8x8"),
        (torch.full((1, 128, 128), math.nan), ImageError, "NaN"),
        (torch.full((3, 128, 128), math.nan), ImageError, "NaN"),
        (torch.rand(2, 128, 128), ImageError, "2, 128, 128"),
    ],
)
def test_bad_pictures(picture, error, names):
    with pytest.raises(error, match=names):
        inspect(picture)


def test_a_constant_picture_is_clean():
    for value in (0.0, 0.5, 1.0):
        found = inspect(torch.full((3, 256, 256), value))
        assert found.verdict == "clean" and found.score == 0


def test_bad_periods_and_references():
    with pytest.raises(SettingError, match="Periods.*300"):
        inspect(scene(), suspects=(300,))
    with pytest.raises(ImageError, match="600x600 px.*512x512 px"):
        inspect(scene(), scene(600))


def test_small_pictures_are_searched_as_far_as_they_reach():
    found = inspect(marked(scene(96), 8, 4.0), suspects=(8,))
    assert found.period == 8 and found.autocorrelation is not None
    assert inspect(scene(64), suspects=(8,)).autocorrelation is None


@pytest.mark.long
def test_real_photos_are_no_lattices(realsr):
    from op4ksr_core.picture.read import read_picture

    scores = [inspect(read_picture(hr).rgb[0]).score for _, hr in realsr]
    assert max(scores) < 0.1


def test_strips_equal_the_whole(monkeypatch):
    """Pictures are read in strips of rows, for speed; the sizes here end inside, at and just after a strip."""
    from op4ksr_core.lattice import spectrum as parts

    for shape in ((40, 64), (256, 100), (257, 90), (700, 333)):
        y = 255 * torch.rand(shape)
        found = [*parts.whitened(y), parts.spectrum(*parts.whitened(y))]
        with monkeypatch.context() as patch:
            patch.setattr(parts, "_STRIP", 10_000)
            whole = [*parts.whitened(y), parts.spectrum(*parts.whitened(y))]
        for a, b in zip(found, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 5, 13, 17, 25, 33])
def test_box_is_the_mean_of_mirrored_neighbours(size):
    from op4ksr_core.lattice.spectrum import box, windows

    x = torch.rand(50, 61)
    half = size // 2
    padded = torch.nn.functional.pad(x[None, None], (half,) * 4, mode="reflect")
    torch.testing.assert_close(box(x, size), torch.nn.functional.avg_pool2d(padded, size, 1)[0, 0])
    torch.testing.assert_close(windows(x, size, 1), x.unfold(1, size, 1).sum(-1))
