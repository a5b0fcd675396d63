"""Two-stage degradation after Real-ESRGAN (arXiv 2107.10833): blur, resize, noise, JPEG, twice.

Runs on any device; every random number comes from one CPU generator, so a seed gives the same
choices everywhere. Pictures are (3, H, W) in [0, 1].
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Size
from ..picture.resample import resize

Range = tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """One pass. Ranges are (low, high); sigma in px, noise in 1/255, JPEG in quality 1..100."""

    blur_sigma: Range = (0.2, 3.0)
    blur_probability: float = 1.0
    kernel: tuple[int, int] = (7, 21)
    resize: Range = (0.3, 1.5)
    gaussian: Range = (1.0, 15.0)
    poisson: Range = (0.05, 2.0)
    noise_probability: float = 1.0
    jpeg: Range = (60.0, 95.0)
    jpeg_probability: float = 1.0


@dataclass(frozen=True)
class Degradation:
    """Two stages, then a final resize to 1/scale."""

    first: Stage = Stage()
    second: Stage = Stage(
        blur_sigma=(0.2, 1.5),
        blur_probability=0.5,
        resize=(0.6, 1.2),
        gaussian=(1.0, 12.0),
        poisson=(0.05, 1.0),
        jpeg=(60.0, 100.0),
    )
    scale: int = 4


OMGSR = Degradation()
"""The milder numbers of OMGSR and S3Diff (arXiv 2508.08227, 2409.17058)."""

EMBEDDED = Degradation(
    first=Stage(
        blur_sigma=(0.2, 2.4),
        blur_probability=0.9,
        resize=(0.8, 1.1),
        gaussian=(0.0, 3.0),
        poisson=(0.0, 0.2),
        noise_probability=0.3,
        jpeg=(80.0, 98.0),
        jpeg_probability=0.2,
    ),
    second=Stage(
        blur_sigma=(0.2, 0.8),
        blur_probability=0.2,
        resize=(0.9, 1.1),
        gaussian=(0.0, 3.0),
        poisson=(0.0, 0.2),
        noise_probability=0.3,
        jpeg=(85.0, 100.0),
        jpeg_probability=0.3,
    ),
)
"""What a camera or a good web picture has been through; the embedded model keeps the LR's own band."""


class _Dice:
    """Scalars from a torch generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, span: Range = (0.0, 1.0)) -> float:
        return span[0] + (span[1] - span[0]) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def normal_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator).to(x)


def degrade(picture_chw: Tensor, generator: torch.Generator, degradation: Degradation = OMGSR) -> Tensor:
    """(3, H, W) -> (3, H // scale, W // scale), both in [0, 1]."""
    dice = _Dice(generator)
    final = Size(*(side // degradation.scale for side in picture_chw.shape[-2:]))
    full = Size(*picture_chw.shape[-2:])
    x = _stage(picture_chw[None], dice, degradation.first, full, jpeg_last=True)
    # The second stage's resize is relative to the final size, and the final size is reached before its JPEG.
    x = _stage(x, dice, degradation.second, final, jpeg_last=False)
    x = resize(x, final).clamp(0, 1)
    if dice.chance(degradation.second.jpeg_probability):
        x = jpeg(x, dice.uniform(degradation.second.jpeg))
    return x[0].clamp(0, 1)


def _stage(x: Tensor, dice: _Dice, stage: Stage, base: Size, jpeg_last: bool) -> Tensor:
    if dice.chance(stage.blur_probability):
        x = blur(x, _kernel(dice, stage).to(x))
    factor = dice.uniform(stage.resize)
    x = resize(x, Size(max(8, round(base.height * factor)), max(8, round(base.width * factor))))
    if dice.chance(stage.noise_probability):
        x = _noise(x, dice, stage)
    x = x.clamp(0, 1)
    return jpeg(x, dice.uniform(stage.jpeg)) if jpeg_last and dice.chance(stage.jpeg_probability) else x


def _kernel(dice: _Dice, stage: Stage) -> Tensor:
    """A (possibly oriented) generalised Gaussian, odd side, sum 1."""
    side = int(dice.uniform((stage.kernel[0], stage.kernel[1] + 0.99))) // 2 * 2 + 1
    sx, angle = dice.uniform(stage.blur_sigma), dice.uniform((0, math.pi))
    sy = dice.uniform(stage.blur_sigma) if dice.chance(0.4) else sx
    power = dice.uniform((0.5, 2.0)) if dice.chance(0.3) else 1.0
    axis = torch.arange(side) - side // 2
    v, u = torch.meshgrid(axis.float(), axis.float(), indexing="ij")
    a, b = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    kernel = torch.exp(-0.5 * ((a / sx) ** 2 + (b / sy) ** 2) ** power)
    return kernel / kernel.sum()


def blur(x_bchw: Tensor, kernel: Tensor) -> Tensor:
    """Each channel convolved with one odd-sided kernel, borders mirrored."""
    half = kernel.shape[-1] // 2
    padded = F.pad(x_bchw, (half,) * 4, mode="reflect" if half < min(x_bchw.shape[-2:]) else "replicate")
    return F.conv2d(padded, kernel.expand(x_bchw.shape[1], 1, -1, -1), groups=x_bchw.shape[1])


def _noise(x: Tensor, dice: _Dice, stage: Stage) -> Tensor:
    """Gaussian or signal-dependent noise, grey in two cases of five."""
    noise = dice.normal_like(x)
    if dice.chance(0.4):
        noise = noise[:, :1]
    if dice.chance(0.5):
        return x + noise * dice.uniform(stage.gaussian) / 255
    # Poisson noise of a photon count in its Gaussian limit: variance proportional to the signal.
    return x + noise * (x.clamp(min=0) / 255).sqrt() * dice.uniform(stage.poisson)


_LUMA_STEPS = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA_STEPS = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
)


def jpeg(x_bchw: Tensor, quality: float) -> Tensor:
    """Baseline JPEG's loss (ITU-T T.81: 8x8 DCT, annex K tables, 4:2:0 chroma) without its bit stream."""
    height, width = x_bchw.shape[-2:]
    padded = F.pad(x_bchw, (0, -width % 16, 0, -height % 16), mode="replicate") * 255
    to_ycc = x_bchw.new_tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, padded)
    y = _quantise(ycc[:, :1] - 128, _LUMA_STEPS, quality) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), _CHROMA_STEPS, quality)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    rgb = torch.einsum("ij,bjhw->bihw", to_ycc.inverse(), torch.cat([y, chroma], 1))
    return (rgb / 255)[..., :height, :width].clamp(0, 1)


def _quantise(x: Tensor, table: str, quality: float) -> Tensor:
    """Rounds the 8x8 DCT coefficients to the table's steps at this quality."""
    factor = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = x.new_tensor([float(s) for s in table.split()]).view(8, 8)
    steps = ((steps * factor + 50) / 100).floor().clamp(1, 255)
    n = torch.arange(8, device=x.device, dtype=x.dtype)
    dct = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) * 0.5
    dct[0] *= 0.5**0.5
    blocks = rearrange(x, "b c (h p) (w q) -> b c h w p q", p=8, q=8)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / steps).round() * steps) @ dct
    return rearrange(blocks, "b c h w p q -> b c (h p) (w q)")
