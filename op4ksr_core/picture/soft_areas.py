"""Soft areas of a picture, such as water, bokeh, skin and sky: no texture is drawn there that they did not have."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .luma import FULL_RANGE

CELL = 4
"""px of a side of the cells that strength is measured in."""

FREE, TIMES = 1.0 / 255, 1.5
"""A picture may have this deviation of detail anywhere, and so many times more than it had before."""

_ROWS = 512  # px, a multiple of CELL, looked at together


def luma(x_bchw: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H, W)."""
    return torch.einsum("bchw,c->bhw", x_bchw.float(), x_bchw.new_tensor(FULL_RANGE).float())


def detail_strength(image_bchw: Tensor) -> Tensor:
    """How strong the detail of brightness is: (B, 3, H, W) in [0, 1] -> (B, 1, ceil(H / 4), ceil(W / 4)).

    Luma less its mean over 5 px, as a deviation over 12 px.
    """
    height = image_bchw.shape[-2]
    parts = [_squares(image_bchw, top, min(height, top + _ROWS)) for top in range(0, height, _ROWS)]
    return F.avg_pool2d(torch.cat(parts, -2), 3, 1, 1, count_include_pad=False).sqrt()


def _squares(image_bchw: Tensor, top: int, bottom: int) -> Tensor:
    """Mean square of the detail of some rows, by cell."""
    above, below = min(2, top), min(2, image_bchw.shape[-2] - bottom)
    rows = image_bchw[..., top - above : bottom + below, :]
    brightness = luma(rows)[:, None]
    detail = brightness - F.avg_pool2d(brightness, 5, 1, 2, count_include_pad=False)
    inner = detail[..., above : above + bottom - top, :].square()
    return F.avg_pool2d(inner, CELL, ceil_mode=True, count_include_pad=False)


def limit_texture(made_bchw: Tensor, before_bchw: Tensor) -> Tensor:
    """The picture, in place, with less of what was drawn over the picture before where that was soft: its detail is
    made no stronger than FREE and TIMES the former. Both (B, 3, H, W) in [0, 1]; in texture nothing changes.
    """
    most = FREE + TIMES * detail_strength(before_bchw)
    share = (most / detail_strength(made_bchw).clamp_min(1e-6)).clamp_(max=1)
    share = F.avg_pool2d(share, 3, 1, 1, count_include_pad=False)
    height, width = made_bchw.shape[-2:]
    for top in range(0, height, _ROWS):
        part = (..., slice(top, top + _ROWS), slice(None))
        weight = _enlarged(share, top, min(height, top + _ROWS), width)
        made_bchw[part] = torch.lerp(before_bchw[part], made_bchw[part], weight)
    return made_bchw


def _enlarged(share: Tensor, top: int, bottom: int, width: int) -> Tensor:
    """Some px rows of a map of cells, between them bilinear."""
    first, last = top // CELL, -(-bottom // CELL)
    above, below = min(1, first), min(1, share.shape[-2] - last)
    cells = share[..., first - above : last + below, :]
    px = F.interpolate(cells, scale_factor=float(CELL), mode="bilinear")
    return px[..., CELL * above : CELL * above + bottom - top, :width]
