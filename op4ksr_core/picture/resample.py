"""Resizing, padding and cropping of pictures (B, C, H, W), float."""

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Size, reflect_indices


def resize(x_bchw: Tensor, size: Size) -> Tensor:
    """Bicubic resize to `size`; antialiased where the picture shrinks.

    Enlarging uses a = -0.75 (torch's plain bicubic, a little sharper), shrinking a = -0.5.
    """
    shrinks = size.height < x_bchw.shape[-2] or size.width < x_bchw.shape[-1]
    if tuple(x_bchw.shape[-2:]) == (size.height, size.width):
        return x_bchw
    return F.interpolate(x_bchw, size=(size.height, size.width), mode="bicubic", align_corners=False, antialias=shrinks)


def lanczos(x_bchw: Tensor, size: Size) -> Tensor:
    """Lanczos (three lobes) to `size` by Pillow, float32 and not clamped: the plain enlargement to compare with."""
    height, width = x_bchw.shape[-2:]
    if (height, width) == (size.height, size.width):
        return x_bchw
    out = x_bchw.new_empty(*x_bchw.shape[:2], size.height, size.width, dtype=torch.float32)
    for made, channel in zip(out.flatten(0, 1), x_bchw.float().cpu().flatten(0, 1), strict=True):
        plane = Image.fromarray(channel.numpy()).resize((size.width, size.height), Image.Resampling.LANCZOS)
        made.copy_(torch.from_numpy(np.array(plane)))
    return out


def down_up_band(x_bchw: Tensor, size: Size) -> Tensor:
    """What `resize` to `size` and back again gives, to rounding, without ever making the picture of that size.

    Both ways are linear and separable, and a result depends on a few neighbours only: per axis a narrow band matrix.
    """
    for axis, through in ((-1, size.width), (-2, size.height)):
        x_bchw = _banded(x_bchw, _there_and_back_band(x_bchw.shape[axis], through).to(x_bchw), axis)
    return x_bchw


def _banded(x: Tensor, band: Tensor, axis: int) -> Tensor:
    """sum over k of band[i, k] * x[i + k - reach] along an axis, with zeros outside."""
    length, taps = band.shape
    reach = taps // 2
    padded = F.pad(x, (reach, reach) if axis == -1 else (0, 0, reach, reach))
    weights = band if axis == -1 else band[:, :, None]
    out = torch.zeros_like(x)
    for k in range(taps):
        out = out.addcmul(padded.narrow(axis, k, length), weights[:, k])
    return out


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _there_and_back_band(length: int, through: int) -> Tensor:
    """(length, 2 reach + 1): how much of its neighbours each px holds after a resize to `through` px and back.

    Measured on combs of impulses that lie too far apart to meet. Kept for later calls, so it is no tensor of inference
    mode, even where the first call is made there: a training may make the next.
    """
    reach = 2 * math.ceil(2 * max(1.0, length / through)) + 2
    taps = 2 * reach + 1
    combs = torch.zeros(1, 1, taps, length)
    for start in range(taps):
        combs[..., start, start::taps] = 1
    there = resize(combs, Size(taps, through))
    back = resize(there, Size(taps, length))[0, 0]
    i, k = torch.meshgrid(torch.arange(length), torch.arange(taps), indexing="ij")
    source = i + k - reach
    return torch.where((source >= 0) & (source < length), back[source % taps, i], 0.0)


def pad_reflect(x_bchw: Tensor, size: Size) -> Tensor:
    """Mirrors the picture onwards at the bottom and right up to `size`, however small it is."""
    height, width = x_bchw.shape[-2:]
    if (height, width) == (size.height, size.width):
        return x_bchw
    rows = torch.tensor(reflect_indices(height, size.height), device=x_bchw.device)
    columns = torch.tensor(reflect_indices(width, size.width), device=x_bchw.device)
    return x_bchw.index_select(-2, rows).index_select(-1, columns)


def channels_last(x_bchw: Tensor) -> Tensor:
    """The same values in the memory layout in which convolutions are fastest."""
    return x_bchw.contiguous(memory_format=torch.channels_last)


def crop(x_bchw: Tensor, size: Size) -> Tensor:
    """The top left `size` of the picture: undoes `pad_reflect`."""
    return x_bchw[..., : size.height, : size.width]
