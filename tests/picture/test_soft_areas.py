"""What was drawn over a picture is bounded where that is soft, and nowhere else."""

import pytest
import torch
from torch.nn import functional as F

from op4ksr_core.picture import soft_areas
from op4ksr_core.picture.soft_areas import FREE, TIMES, detail_strength, limit_texture


def crosshatch(height, width, amplitude):
    """A 5-px mesh of this amplitude in 1/255, (1, 3, H, W)."""
    down, across = torch.arange(height)[:, None], torch.arange(width)[None]
    wave = torch.cos(2 * torch.pi * down / 5) * torch.cos(2 * torch.pi * across / 5)
    return (amplitude / 255 * wave).expand(1, 3, height, width)


def soft(height, width):
    """A slow ramp, (1, 3, H, W)."""
    return (torch.linspace(0.3, 0.6, height)[:, None] + torch.linspace(0, 0.1, width)).expand(1, 3, -1, -1)


@pytest.mark.parametrize("amplitude", [6.0, 25.0])
def test_a_mesh_on_a_soft_picture_is_bounded(amplitude):
    before = soft(96, 130)
    made = before + crosshatch(96, 130, amplitude)
    assert float(detail_strength(made).mean()) > 2.5 / 255
    limited = limit_texture(made.clone(), before)
    assert float(detail_strength(limited).max()) < FREE + 2 * TIMES * float(detail_strength(before).max())
    assert float((limited - before).abs().max()) > 0.5 / 255  # bounded, not taken out


def test_texture_and_faint_detail_come_back_bit_for_bit(photo):
    busy = photo[..., 100:260, 100:260]
    assert torch.equal(limit_texture(busy.clone(), busy), busy)
    faint = soft(64, 64) + crosshatch(64, 64, 1.0)
    assert torch.equal(limit_texture(faint.clone(), soft(64, 64)), faint)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (130, 67), (129, 201)])
def test_strips_are_the_whole(photo, size, monkeypatch):
    before = F.avg_pool2d(photo[..., : size[0], : size[1]], 9, 1, 4, count_include_pad=False)
    made = (before + crosshatch(*size, 9.0)).clamp(0, 1)
    whole = limit_texture(made.clone(), before)
    monkeypatch.setattr(soft_areas, "_ROWS", 16)
    torch.testing.assert_close(limit_texture(made.clone(), before), whole, rtol=0, atol=1e-6)
    assert whole.shape == made.shape
