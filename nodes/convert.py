"""Between ComfyUI's picture layout and the core's."""

import torch
from torch import Tensor

from ..op4ksr_core.errors import ImageError


def to_bchw(image_bhwc: Tensor) -> Tensor:
    """ComfyUI's IMAGE (B, H, W, C) -> (B, 3, H, W); an alpha channel is dropped, grey is repeated.

    Raises ImageError on another shape, an empty one, or NaN and infinity in it.
    """
    if image_bhwc.ndim != 4 or image_bhwc.shape[-1] not in (1, 3, 4):
        raise ImageError(f"An IMAGE is (pictures, height, width, 1, 3 or 4); this one is {list(image_bhwc.shape)}.")
    if 0 in image_bhwc.shape:
        raise ImageError(f"The IMAGE is empty: {list(image_bhwc.shape)}.")
    x = image_bhwc.movedim(-1, 1).float()
    if not bool(torch.isfinite(x).all()):
        raise ImageError("The IMAGE holds NaN or infinity: look at the node that made it.")
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]


def to_image(x_bchw: Tensor) -> Tensor:
    """(B, C, H, W) -> ComfyUI's IMAGE (B, H, W, C)."""
    return x_bchw.movedim(1, -1).contiguous()
