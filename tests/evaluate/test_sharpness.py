"""Detail, right and NIQE: known values, and their order on known pictures."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from op4ksr_core.errors import ImageError
from op4ksr_core.evaluate.niqe import niqe
from op4ksr_core.evaluate.sharpness import hf_correlation, hf_energy_db


def wave(period, phase=0.0, amplitude=0.2, side=128):
    line = torch.sin(2 * math.pi * torch.arange(side) / period + phase) * amplitude
    return (0.5 + line.expand(side, side))[None, None].repeat(1, 3, 1, 1)


def test_a_picture_has_its_own_detail_and_all_of_it_right():
    x = wave(4)
    assert hf_energy_db(x, x) == 0 and hf_correlation(x, x) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_detail_is_power_in_decibels(factor):
    assert hf_energy_db(wave(4, amplitude=0.2 * factor), wave(4)) == pytest.approx(20 * math.log10(factor), abs=1e-3)


def test_right_is_the_cosine_of_a_shift():
    assert hf_correlation(wave(4, math.pi / 3), wave(4)) == pytest.approx(0.5, abs=1e-3)
    assert hf_correlation(wave(4, math.pi), wave(4)) == pytest.approx(-1, abs=1e-3)


def test_waves_longer_than_eight_px_are_no_detail():
    assert hf_energy_db(wave(16), wave(4)) < -40


def test_niqe_prefers_a_photo_to_its_blur_and_to_noise(photo):
    soft = avg_pool2d(photo, 5, 1, 2, count_include_pad=False)
    noisy = (photo + 0.2 * torch.randn(photo.shape)).clamp(0, 1)
    assert niqe(photo) < niqe(soft) and niqe(photo) < niqe(noisy)
    assert niqe(photo) == pytest.approx(3.099, abs=0.002)  # by an independent program with the same parameters


def test_niqe_needs_three_blocks(photo):
    with pytest.raises(ImageError, match="96 px.*100x100"):
        niqe(photo[..., :100, :100])
