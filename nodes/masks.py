"""MASK inputs of the nodes that upscale, as Load Image and MaskEditor give them."""

import torch
from torch import Tensor

from ..op4ksr_core.declared import check_choice
from ..op4ksr_core.errors import ImageError

PAINTED = ("restore there", "keep there")
"""What a place of strength_mask means where it is 1, as MaskEditor paints it."""

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
            f"The MASK at mask is {size}, the IMAGE {image.shape[2]}x{image.shape[1]}. mask is the transparency, "
            "px for px. strength_mask takes any size."
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
