"""Between ComfyUI's picture layout and the core's."""

from torch import Tensor


def to_bchw(image_bhwc: Tensor) -> Tensor:
    """ComfyUI's IMAGE (B, H, W, C) -> (B, 3, H, W); an alpha channel is dropped, grey is repeated."""
    x = image_bhwc.movedim(-1, 1).float()
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]


def to_image(x_bchw: Tensor) -> Tensor:
    """(B, C, H, W) -> ComfyUI's IMAGE (B, H, W, C)."""
    return x_bchw.movedim(1, -1).contiguous()
