"""Triton kernels for a group norm and its SiLU over a channels-last map: two reads and one write of the map.

Imported only where Triton is installed and the map is on CUDA (or, for tests, with TRITON_INTERPRET=1). The first
kernel sums each channel in float32 about an origin near its mean, block by block; the blocks are added up in float64,
and `group_norm.Moments` makes a factor and a summand per channel of that. The second kernel applies them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 64
"""Pixels in a tile; with 128 channels a tile is 16 kB in bfloat16."""

_TILES = 16
"""Tiles that one program sums up."""


@triton.jit
def _sum_tiles(
    x, origin, sums, squares, pixels, channels, width: tl.constexpr, rows: tl.constexpr, tiles: tl.constexpr
):
    block, picture = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, width)
    inside = column < channels
    middle = tl.load(origin + picture * channels + column, mask=inside, other=0.0)
    total = tl.zeros((width,), tl.float32)
    square = tl.zeros((width,), tl.float32)
    for tile in range(tiles):
        row = (block * tiles + tile) * rows + tl.arange(0, rows)
        mask = (row < pixels)[:, None] & inside[None, :]
        at = (picture * pixels + row).to(tl.int64)[:, None] * channels + column[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - middle[None, :], 0.0)
        total += tl.sum(value, 0)
        square += tl.sum(value * value, 0)
    place = (picture * tl.num_programs(0) + block) * channels + column
    tl.store(sums + place, total, mask=inside)
    tl.store(squares + place, square, mask=inside)


@triton.jit
def _scale_tiles(x, out, scale, shift, pixels, channels, width: tl.constexpr, rows: tl.constexpr, silu: tl.constexpr):
    block, picture = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, width)
    inside = column < channels
    factor = tl.load(scale + picture * channels + column, mask=inside, other=0.0)
    summand = tl.load(shift + picture * channels + column, mask=inside, other=0.0)
    row = block * rows + tl.arange(0, rows)
    mask = (row < pixels)[:, None] & inside[None, :]
    at = (picture * pixels + row).to(tl.int64)[:, None] * channels + column[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * factor[None, :] + summand[None, :]
    if silu:
        value = value * tl.sigmoid(value)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def channel_sums(x: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of x - origin per channel, each (B, C) in float64; x is (B, C, H, W), origin (B, C)."""
    batch, channels, height, width = x.shape
    blocks = triton.cdiv(height * width, _PIXELS * _TILES)
    x, origin = x.contiguous(memory_format=torch.channels_last), origin.float().contiguous()
    sums, squares = (torch.empty(batch, blocks, channels, device=x.device) for _ in range(2))
    padded = triton.next_power_of_2(channels)
    _sum_tiles[(blocks, batch)](x, origin, sums, squares, height * width, channels, padded, _PIXELS, _TILES)
    return sums.double().sum(1), squares.double().sum(1)


def scaled(x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> Tensor:
    """scale x + shift in the dtype and layout of x (B, C, H, W), through SiLU if wanted; scale and shift hold B*C
    float32 numbers."""
    batch, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    blocks = triton.cdiv(height * width, _PIXELS)
    padded = triton.next_power_of_2(channels)
    factor, summand = (numbers.float().contiguous() for numbers in (scale, shift))
    _scale_tiles[(blocks, batch)](x, out, factor, summand, height * width, channels, padded, _PIXELS, silu)
    return out
