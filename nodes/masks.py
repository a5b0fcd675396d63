"""MASK inputs of the nodes that upscale, as Load Image and MaskEditor give them."""

import torch
from torch import Tensor

from ..op4ksr_core.declared import check_choice
from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.geometry import Frame, Part
from ..op4ksr_core.pipeline.trial import middle_of

PAINTED = ("restore there", "keep there")
"""What a place of strength_mask means where it is 1, as MaskEditor paints it."""

TRIED = ("off", "middle", "painted")
"""The part of the picture that is tried: all of it, its middle, or the box around what strength_mask has painted."""

_PLACEHOLDER = 64
"""px: the side of the all-zero MASK that Load Image gives beside a picture without transparency."""


def is_placeholder(mask: Tensor, image: Tensor) -> bool:
    """Whether a MASK is Load Image's way to say that its picture has none: 64x64 zeros beside an IMAGE (B, H, W, C) of
    another size."""
    side = (_PLACEHOLDER, _PLACEHOLDER)
    is_zero = tuple(mask.shape[-2:]) == side and not bool(mask.any())
    return is_zero and tuple(image.shape[1:3]) != side


def alpha_of(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """The alpha (B, 1, H, W) of an IMAGE: 1 - MASK where one is given, else its fourth channel. Raises ImageError."""
    if mask is None or is_placeholder(mask, image):
        return image[..., 3][:, None].float() if image.shape[-1] == 4 else None
    if mask.ndim != 3 or mask.shape[-2:] != image.shape[1:3]:
        size = f"{mask.shape[-1]}x{mask.shape[-2]} px" if 0 not in mask.shape else "empty"
        raise ImageError(
            f"The MASK at mask is {size}, the IMAGE {image.shape[2]}x{image.shape[1]}. mask is the IMAGE's "
            "transparency: connect the MASK of the same Load Image. strength_mask takes any size."
        )
    if len(mask) not in (1, len(image)):
        raise ImageError(f"There are {len(image)} pictures and {len(mask)} masks; give one mask, or as many.")
    if not bool(torch.isfinite(mask).all()):
        raise ImageError("The MASK at mask holds NaN or infinity: look at the node that made it.")
    return (1 - mask[:, None].float()).clamp(0, 1).expand(len(image), -1, -1, -1)


def region_of(image: Tensor, mask: Tensor | None, painted_means: str = PAINTED[0]) -> Tensor | None:
    """Where the model may act (B or 1, 1, H, W) in an IMAGE; None where no region is given. Raises SettingError."""
    keeps = check_choice("painted_means", painted_means, PAINTED) == PAINTED[1]
    if mask is None or is_placeholder(mask, image):
        return None
    region = mask[:, None] if mask.ndim == 3 else mask
    return 1 - region if keeps else region


def part_of(frame: Frame, mask: Tensor | None, region: str) -> Part | None:
    """The part of a picture that is tried, by one of TRIED; None is all of it, also where all of it is painted. mask:
    (B, H, W) as painted, any size.

    Raises SettingError on another word, and where nothing is painted.
    """
    check_choice("region", region, TRIED)
    if region == "off":
        return None
    if region == "middle":
        return middle_of(frame)
    painted = None if mask is None else (mask.reshape(-1, *mask.shape[-2:]) > 0.5).any(0)
    if painted is None or not bool(painted.any()):
        found = "no MASK" if painted is None else f"a MASK of {painted.shape[-1]}x{painted.shape[-2]} px without paint"
        raise SettingError(f"region painted wants a painted strength_mask, got {found}. Paint one, or choose middle.")
    top, bottom = _ends(painted.any(1), frame.source.height)
    left, right = _ends(painted.any(0), frame.source.width)
    part = Part(left, top, right - left, bottom - top)
    return None if part.size == frame.source else part


def _ends(painted: Tensor, side: int) -> tuple[int, int]:
    """First and last px of `side`, the last excluded, that a line of painted places covers."""
    places = painted.nonzero().flatten()
    first, last = int(places[0]), int(places[-1]) + 1
    return first * side // len(painted), -(-last * side // len(painted))
