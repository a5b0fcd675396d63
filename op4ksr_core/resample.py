"""Resizing, padding and cropping of pictures (B, C, H, W), float."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .geometry import Size, reflect_indices


def resize(x_bchw: Tensor, size: Size) -> Tensor:
    """Bicubic resize to `size`; antialiased where the picture shrinks.

    Enlarging uses a = -0.75 (torch's plain bicubic, a little sharper), shrinking a = -0.5.
    """
    shrinks = size.height < x_bchw.shape[-2] or size.width < x_bchw.shape[-1]
    if tuple(x_bchw.shape[-2:]) == (size.height, size.width):
        return x_bchw
    return F.interpolate(x_bchw, size=(size.height, size.width), mode="bicubic", align_corners=False, antialias=shrinks)


def pad_reflect(x_bchw: Tensor, size: Size) -> Tensor:
    """Mirrors the picture onwards at the bottom and right up to `size`, however small it is."""
    height, width = x_bchw.shape[-2:]
    if (height, width) == (size.height, size.width):
        return x_bchw
    rows = torch.tensor(reflect_indices(height, size.height), device=x_bchw.device)
    columns = torch.tensor(reflect_indices(width, size.width), device=x_bchw.device)
    return x_bchw.index_select(-2, rows).index_select(-1, columns)


def crop(x_bchw: Tensor, size: Size) -> Tensor:
    """The top left `size` of the picture: undoes `pad_reflect`."""
    return x_bchw[..., : size.height, : size.width]
