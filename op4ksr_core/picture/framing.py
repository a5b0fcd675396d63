"""Cutting a picture to a shape, setting it into a canvas, and keeping a region of it as it was."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError
from ..geometry import Frame, Size
from .resample import lanczos, resize

FEATHER = 16
"""px of the result over which a region's edge is softened."""


def cut(x_bchw: Tensor, frame: Frame) -> Tensor:
    """The part of the source that the frame uses."""
    rows, columns = slice(frame.top, frame.top + frame.used.height), slice(frame.left, frame.left + frame.used.width)
    return x_bchw[..., rows, columns]


def set_into(x_bchw: Tensor, frame: Frame, value: float = 0.0) -> Tensor:
    """The picture of `frame.target` px in the middle of its canvas, `value` around it."""
    if frame.target == frame.canvas:
        return x_bchw
    spare = frame.canvas.height - frame.target.height, frame.canvas.width - frame.target.width
    above, before = spare[0] // 2, spare[1] // 2
    return F.pad(x_bchw, (before, spare[1] - before, above, spare[0] - above), value=value)


def check_region(mask_b1hw: Tensor, pictures: int) -> None:
    """Raises ImageError unless a strength mask is (1 or `pictures`, 1, H, W) with no empty side, in [0, 1]."""
    if mask_b1hw.ndim != 4 or mask_b1hw.shape[1] != 1 or 0 in mask_b1hw.shape:
        raise ImageError(f"A strength mask is (B, H, W) with no empty side, got {list(mask_b1hw.shape)}.")
    if len(mask_b1hw) not in (1, pictures):
        raise ImageError(f"There are {pictures} pictures and {len(mask_b1hw)} strength masks; give 1 or as many.")
    low, high = (float(v) for v in mask_b1hw.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ImageError(f"A strength mask lies in [0, 1], got {low:g} to {high:g} (NaN counts as outside).")


def resize_region(mask_b1hw: Tensor, size: Size) -> Tensor:
    """A strength mask at another size. Bicubic steps beyond the range beside a hard edge, so it is clamped."""
    return resize(mask_b1hw.float().clamp(0, 1), size).clamp(0, 1)


def restore_region(picture_bchw: Tensor, lr_bchw: Tensor, mask_b1hw: Tensor) -> Tensor:
    """The picture where the mask (B or 1, 1, any size) is 1, the LR picture by Lanczos where it is 0, both in between.

    The mask's edge is softened over FEATHER px of the result, outwards only into the restored part, so that what is
    kept is kept to its border. Blended as pictures, not as latents: a latent px is 16 px wide, and the decoder's
    norms would change the kept part too. Raises ImageError as `check_region`.
    """
    check_region(mask_b1hw, len(picture_bchw))
    size = Size(*picture_bchw.shape[-2:])
    weight = resize_region(mask_b1hw, size)
    weight = torch.minimum(weight, _softened(weight)).to(picture_bchw)
    return lanczos(lr_bchw, size).to(picture_bchw).clamp(0, 1).lerp(picture_bchw, weight)


def _softened(weight: Tensor) -> Tensor:
    """Least of the px around, then averaged over as many: 0 where the mask is 0, 1 only FEATHER px from there."""
    for axis in ((2 * FEATHER + 1, 1), (1, 2 * FEATHER + 1)):
        around = (axis[1] // 2,) * 2 + (axis[0] // 2,) * 2
        weight = -F.max_pool2d(-F.pad(weight, around, mode="replicate"), axis, 1)
    for axis in ((2 * FEATHER + 1, 1), (1, 2 * FEATHER + 1)):
        around = (axis[1] // 2,) * 2 + (axis[0] // 2,) * 2
        weight = F.avg_pool2d(F.pad(weight, around, mode="replicate"), axis, 1)
    return weight
