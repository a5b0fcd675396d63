"""PSNR, SSIM and GMSD against slow numpy twins written from their definitions."""

import math

import numpy as np
import pytest
import torch

from op4ksr_core.errors import ImageError, SettingError
from op4ksr_core.evaluate import measures
from op4ksr_core.evaluate.metrics import LOCAL, METRICS, Tiles, find_metrics


def luma(x):
    r, g, b = np.asarray(x[0], dtype=np.float64)
    return 16 + 65.481 * r + 128.553 * g + 24.966 * b


def psnr(a, b):
    return 10 * math.log10(255**2 / np.mean((luma(a) - luma(b)) ** 2))


def ssim(a, b):
    x, y, side = luma(a).round(), luma(b).round(), 11
    at = np.arange(side) - side // 2
    line = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for i in range(x.shape[0] - side + 1):
        for j in range(x.shape[1] - side + 1):
            p, q = x[i : i + side, j : j + side], y[i : i + side, j : j + side]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
            cov = (window * p * q).sum() - mp * mq
            value = (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            values.append(max(0, value))
    return np.mean(values)


def gmsd(a, b):
    def gradients(x):
        y = luma(x)
        half = np.array(
            [
                [y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(y.shape[1] // 2)]
                for i in range(y.shape[0] // 2)
            ]
        )
        padded = np.pad(half, 1)
        out = np.zeros_like(half)
        for i, j in np.ndindex(half.shape):
            p = padded[i : i + 3, j : j + 3]
            out[i, j] = math.hypot((p[:, 0] - p[:, 2]).sum() / 3, (p[0] - p[2]).sum() / 3)
        return out

    ga, gb = gradients(a), gradients(b)
    return np.std((2 * ga * gb + 170) / (ga**2 + gb**2 + 170), ddof=1)


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(3)
    truth = torch.nn.functional.interpolate(torch.rand(1, 3, 10, 12, generator=generator), (40, 48), mode="bicubic")
    return measures.quantised(truth + 0.1 * torch.randn(truth.shape, generator=generator)), measures.quantised(truth)


@pytest.mark.parametrize(("name", "twin"), [("psnr", psnr), ("ssim", ssim), ("gmsd", gmsd)])
def test_measures_equal_their_slow_twins(pair, name, twin):
    value = getattr(measures, name)(*pair)
    assert value == pytest.approx(twin(*(p.numpy() for p in pair)), rel=2e-5)


def test_equal_pictures(pair):
    truth = pair[1]
    assert measures.psnr(truth, truth) == math.inf
    assert measures.ssim(truth, truth) == pytest.approx(1, abs=1e-6) and measures.gmsd(truth, truth) == 0


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "vif", "gmsd", "l_ap"])
def test_one_pixel_is_told(name):
    x = torch.rand(1, 3, 1, 1)
    with pytest.raises(ImageError, match="1x1|0x0"):
        getattr(measures, name)(x, x)


@pytest.mark.parametrize(("side", "tiles"), [((70, 130), Tiles(64)), ((64, 64), Tiles(64)), ((40, 200), Tiles(64, 48))])
def test_tiles_cover_every_pixel_and_stay_inside(side, tiles):
    seen = np.zeros(side, int)
    for top, left in tiles.corners(*side):
        assert top >= 0 and left >= 0
        assert (side[0] <= 64 or top + 64 <= side[0]) and (side[1] <= 64 or left + 64 <= side[1])
        seen[top : top + 64, left : left + 64] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize(("how", "joined"), [("mean", 8 / 3), ("median", 2), ("min", 1)])
def test_tiles_are_joined(how, joined):
    assert Tiles(64, aggregate=how).join([1, 2, 5]) == pytest.approx(joined)


@pytest.mark.parametrize(
    ("given", "word"), [({"size": 8}, "8"), ({"stride": 513}, "513"), ({"aggregate": "mode"}, "mode")]
)
def test_wrong_tiles_are_errors(given, word):
    with pytest.raises(SettingError, match=f"got '?{word}"):
        Tiles(**given)


def test_a_tiled_metric_sees_every_tile():
    from dataclasses import replace

    seen = []
    metric = replace(METRICS["psnr"], tiled=True, measure=lambda a, b: seen.append(tuple(a.shape[-2:])) or 2.0)
    assert metric(torch.rand(1, 3, 70, 100), torch.rand(1, 3, 70, 100), Tiles(64)) == 2 and seen == [(64, 64)] * 4


def test_metrics_by_name_and_what_is_missing(monkeypatch):
    monkeypatch.setattr("op4ksr_core.evaluate.metrics.is_installed", lambda name: name not in ("pyiqa", "easyocr"))
    chosen, absent = find_metrics(["all"], True)
    assert [metric.name for metric in chosen] == list(LOCAL)
    assert "pip install" in absent["lpips"] and set(absent) == set(METRICS) - set(LOCAL)
    chosen, absent = find_metrics(["local"], False)
    assert [metric.name for metric in chosen] == ["niqe", "niqe-pyiqa", "periodicity"] and "--gt" in absent["psnr"]
    with pytest.raises(SettingError, match="psrn"):
        find_metrics(["psrn"], True)
    with pytest.raises(SettingError, match="lpips.*pyiqa"):
        find_metrics(["lpips"], True)
