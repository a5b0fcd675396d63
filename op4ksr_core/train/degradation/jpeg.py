"""JPEG's loss, without its bit stream."""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .presets import Codec

_LUMA_STEPS = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA_STEPS = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
)


def jpeg(x_bchw: Tensor, quality: float, codec: Codec = "libjpeg") -> Tensor:
    """Baseline JPEG's loss (ITU-T T.81: 8x8 DCT, annex K tables, 4:2:0 chroma) without its bit stream.

    libjpeg: what the usual encoder and decoder lose. diffjpeg: what BasicSR's `DiffJPEG` loses, with which Real-ESRGAN
    trains: its steps are not whole, luma's table is transposed, chroma is enlarged by repeating px, borders are black.
    """
    height, width = x_bchw.shape[-2:]
    exact = codec == "diffjpeg"
    padded = F.pad(x_bchw, (0, -width % 16, 0, -height % 16), mode="constant" if exact else "replicate") * 255
    to_ycc = x_bchw.new_tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, padded)
    luma_steps, chroma_steps = _steps(_LUMA_STEPS, quality), _steps(_CHROMA_STEPS, quality)
    if not exact:
        luma_steps, chroma_steps = (table.add(0.5).floor().clamp(1, 255) for table in (luma_steps, chroma_steps))
    y = _quantise(ycc[:, :1] - 128, luma_steps.T if exact else luma_steps) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), chroma_steps)
    chroma = F.interpolate(chroma, scale_factor=2, mode="nearest" if exact else "bilinear")
    rgb = torch.einsum("ij,bjhw->bihw", to_ycc.inverse(), torch.cat([y, chroma], 1))
    return (rgb / 255)[..., :height, :width].clamp(0, 1)


def _steps(table: str, quality: float) -> Tensor:
    """(8, 8): the steps of the DCT's coefficients at this quality, vertical frequencies down, not rounded."""
    factor = 5000 / quality if quality < 50 else 200 - 2 * quality
    return torch.tensor([float(step) for step in table.split()]).view(8, 8) * factor / 100


def _quantise(x: Tensor, steps: Tensor) -> Tensor:
    """Rounds the 8x8 DCT coefficients to the steps."""
    steps = steps.to(x)
    n = torch.arange(8, device=x.device, dtype=x.dtype)
    dct = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) * 0.5
    dct[0] *= 0.5**0.5
    blocks = rearrange(x, "b c (h p) (w q) -> b c h w p q", p=8, q=8)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / steps).round() * steps) @ dct
    return rearrange(blocks, "b c h w p q -> b c (h p) (w q)")
