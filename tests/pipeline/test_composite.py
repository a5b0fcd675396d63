import pytest
import torch

from op4ksr_core.errors import ImageError
from op4ksr_core.geometry import Box, Frame, Scale, Size
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.composite import NOTHING_RESTORED, restore_framed


def restored(rgb, target, *given, **named):
    """By what stands for a model: the enlarged picture, a little brighter."""
    frame = target.frame(Size(*rgb.shape[-2:]))
    return restore_framed(rgb, frame, lambda lr: (resize(lr, frame.target) + 0.1).clamp(0, 1), *given, **named)


def test_a_padded_canvas_is_transparent_around_the_picture():
    made = restored(torch.full((1, 3, 10, 20), 0.5), Box(Size(60, 60), "pad"))
    assert made.rgb.shape == (1, 3, 60, 60) == made.before.shape
    assert float(made.alpha[..., :15, :].max()) == 0 and float(made.alpha[..., 15:45, :].min()) == 1
    torch.testing.assert_close(made.rgb[..., 15:45, :], torch.full((1, 3, 30, 60), 0.6))


def test_alpha_region_and_crop_go_along():
    rgb = torch.full((1, 3, 16, 32), 0.4)
    alpha, region = torch.ones(1, 1, 16, 32), torch.ones(1, 1, 16, 32)
    alpha[..., :16], region[..., 16:] = 0, 0
    rgb[..., :16] = 0  # black under the transparent half
    made = restored(rgb, Box(Size(64, 64), "crop"), alpha, region)
    assert made.rgb.shape == (1, 3, 64, 64) and made.alpha.shape == (1, 1, 64, 64)
    assert float(made.alpha[..., :24].max()) == 0 and float(made.alpha[..., 40:].min()) == 1
    torch.testing.assert_close(made.rgb[..., 34:], torch.full((1, 3, 64, 30), 0.4))  # kept
    assert float(made.rgb[..., :31].min()) > 0.4  # no black bled in, and restored


def test_alpha_of_another_size_is_refused():
    with pytest.raises(ImageError, match=r"alpha.*\[1, 1, 4, 4\].*\[1, 3, 8, 8\]"):
        restored(torch.rand(1, 3, 8, 8), Scale(), torch.ones(1, 1, 4, 4))


def test_a_hard_edged_region_of_another_size_is_taken_and_zeros_are_said():
    """Bicubic steps beyond [0, 1] beside hard edges."""
    hard = (torch.arange(12) // 2 % 2).float().expand(1, 1, 8, 12)
    rgb = torch.rand(1, 3, 20, 30)
    made = restored(rgb, Scale(2), region=hard)
    assert not made.notes and float(made.rgb.min()) >= 0
    assert restored(rgb, Scale(2), region=hard * 0).notes == (NOTHING_RESTORED,)


def test_a_region_is_checked_before_the_work():
    def never(lr):
        raise AssertionError("the work had begun")

    frame = Frame.whole(Size(8, 8), Size(16, 16))
    with pytest.raises(ImageError, match="mask.*0 to 2"):
        restore_framed(torch.rand(1, 3, 8, 8), frame, never, region=torch.tensor([[[[0.0, 2.0]]]]))
