"""Real-ESRGAN's degradation (arXiv 2107.10833, section 3): blur, resize, noise and JPEG, twice, with sinc filters.

`draw` chooses every step and its parameters, `apply` carries them out: so that what a setting does can be counted and
shown. All random numbers come from one generator; with a CPU one a seed gives the same choices on every device.
Pictures are (3, H, W) in [0, 1]. Poisson noise is drawn in its Gaussian limit.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Size
from ..picture.resample import resize

Range = tuple[float, float]
Kernel = Literal["isotropic", "anisotropic", "generalised", "generalised-aniso", "plateau", "plateau-aniso"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


@dataclass(frozen=True)
class Stage:
    """One pass. Ranges are (low, high); sigma in px, noise in 1/255, JPEG in quality 1 to 100.

    kernel: sides of the kernels in px. kernel_odds: of KERNELS, in that order. generalised, plateau: ranges of the
    exponent beta of those. sinc: probability of a sinc filter in a kernel's place. resize: the smallest and the largest
    factor. resize_odds: of larger, smaller, and equal; None draws one factor from all of `resize`. gaussian, poisson:
    one of the two, equally often. grey: probability that noise is the same in all channels.
    """

    blur_sigma: Range = (0.2, 3.0)
    blur_probability: float = 1.0
    kernel: tuple[int, int] = (7, 21)
    kernel_odds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    generalised: Range = (0.5, 4.0)
    plateau: Range = (1.0, 2.0)
    sinc: float = 0.1
    resize: Range = (0.15, 1.5)
    resize_odds: tuple[float, float, float] | None = (0.2, 0.7, 0.1)
    gaussian: Range = (1.0, 30.0)
    poisson: Range = (0.05, 3.0)
    grey: float = 0.4
    noise_probability: float = 1.0
    jpeg: Range = (30.0, 95.0)
    jpeg_probability: float = 1.0


@dataclass(frozen=True)
class Degradation:
    """Two stages, then 1/scale. final_sinc: probability of the last sinc filter, which comes before or after the last
    JPEG equally often. resizers: names that every resize draws from: area, bilinear and bicubic are torch's, without
    a filter against aliasing, as in Real-ESRGAN; lanczos has one."""

    first: Stage = Stage()
    second: Stage = Stage(
        blur_sigma=(0.2, 1.5),
        blur_probability=0.8,
        resize=(0.3, 1.2),
        resize_odds=(0.3, 0.4, 0.3),
        gaussian=(1.0, 25.0),
        poisson=(0.05, 2.5),
    )
    scale: int = 4
    final_sinc: float = 0.8
    resizers: tuple[str, ...] = ("area", "bilinear", "bicubic")


REAL_ESRGAN = Degradation()
"""Real-ESRGAN's own numbers, which OSEDiff (arXiv 2406.08177) trains with."""

MILD = Degradation(
    first=Stage(resize=(0.3, 1.5), gaussian=(1.0, 15.0), poisson=(0.05, 2.0), jpeg=(60.0, 95.0)),
    second=replace(
        REAL_ESRGAN.second,
        blur_probability=0.5,
        resize=(0.6, 1.2),
        gaussian=(1.0, 12.0),
        poisson=(0.05, 1.0),
        jpeg=(60.0, 100.0),
    ),
)
"""The milder numbers of S3Diff (arXiv 2409.17058) and OMGSR (2508.08227)."""

OMGSR = MILD

EMBEDDED = Degradation(
    first=Stage(
        blur_sigma=(0.2, 2.4),
        blur_probability=0.9,
        sinc=0.0,
        resize=(0.8, 1.1),
        resize_odds=None,
        gaussian=(0.0, 3.0),
        poisson=(0.0, 0.2),
        noise_probability=0.3,
        jpeg=(80.0, 98.0),
        jpeg_probability=0.2,
    ),
    second=Stage(
        blur_sigma=(0.2, 0.8),
        blur_probability=0.2,
        sinc=0.0,
        resize=(0.9, 1.1),
        resize_odds=None,
        gaussian=(0.0, 3.0),
        poisson=(0.0, 0.2),
        noise_probability=0.3,
        jpeg=(85.0, 100.0),
        jpeg_probability=0.3,
    ),
    final_sinc=0.0,
    resizers=("lanczos",),
)
"""What a camera or a good web picture has been through; the embedded model keeps the LR's own band."""

NONE = Degradation(scale=1)
"""The picture itself: for the stages that learn from clean pictures."""

DEGRADATIONS = {
    "none": NONE,
    "omgsr": OMGSR,
    "s3diff": MILD,
    "osediff": REAL_ESRGAN,
    "real-esrgan": REAL_ESRGAN,
    "embedded": EMBEDDED,
}


@dataclass(frozen=True)
class Step:
    """One thing done to a picture. kind: blur, sinc, resize, noise or jpeg.

    name: the kernel's, the resizer's or the noise's. size: of a resize, in px. strength: the largest sigma in px, the
    cut-off in radians per px, the noise's (gaussian in 1/255), or JPEG's quality.
    """

    kind: str
    name: str = ""
    strength: float = 0.0
    size: Size | None = None
    grey: bool = False
    kernel: Tensor | None = None

    def __str__(self) -> str:
        if self.size:
            return f"{self.name} {self.size.width}x{self.size.height}"
        words = [self.kind if self.kind in ("jpeg", "sinc") else self.name, f"{self.strength:.2g}"]
        return " ".join([*words, "grey"] if self.grey else words)


class _Dice:
    """Scalars from a torch generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, span: Range = (0.0, 1.0)) -> float:
        return span[0] + (span[1] - span[0]) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def place(self, odds: tuple[float, ...]) -> int:
        """A place drawn by its odds, which need not add up to 1."""
        left = self.uniform((0.0, sum(odds)))
        for n, share in enumerate(odds[:-1]):
            left -= share
            if left < 0:
                return n
        return len(odds) - 1


def degrade(picture_chw: Tensor, generator: torch.Generator, degradation: Degradation = OMGSR) -> Tensor:
    """(3, H, W) -> (3, H // scale, W // scale), both in [0, 1]."""
    x = picture_chw[None]
    for step in draw(Size(*picture_chw.shape[-2:]), generator, degradation):
        x = apply(step, x, generator)
    return x[0]


def draw(size: Size, generator: torch.Generator, degradation: Degradation = OMGSR) -> list[Step]:
    """The steps that a picture of `size` goes through, in their order."""
    if degradation == NONE:
        return []
    dice, second = _Dice(generator), degradation.second
    final = Size(size.height // degradation.scale, size.width // degradation.scale)
    steps = _draw_stage(dice, degradation, degradation.first, size)
    if dice.chance(degradation.first.jpeg_probability):
        steps.append(Step("jpeg", strength=dice.uniform(degradation.first.jpeg)))
    # The second stage's factor is of the final size, as in Real-ESRGAN.
    steps += _draw_stage(dice, degradation, second, final)
    last = [Step("resize", _resizer(dice, degradation), size=final)]
    if dice.chance(degradation.final_sinc):
        last.append(_draw_sinc(dice, second))
    squeezed = [Step("jpeg", strength=dice.uniform(second.jpeg))] if dice.chance(second.jpeg_probability) else []
    return steps + (last + squeezed if dice.chance(0.5) or not degradation.final_sinc else squeezed + last)


def _draw_stage(dice: _Dice, degradation: Degradation, stage: Stage, base: Size) -> list[Step]:
    """Blur, resize and noise."""
    steps = []
    if dice.chance(stage.blur_probability):
        steps.append(_draw_sinc(dice, stage) if dice.chance(stage.sinc) else _draw_blur(dice, stage))
    factor = _draw_factor(dice, stage)
    sides = (max(8, round(side * factor)) for side in (base.height, base.width))
    steps.append(Step("resize", _resizer(dice, degradation), factor, Size(*sides)))
    if dice.chance(stage.noise_probability):
        kind = "gaussian" if dice.chance(0.5) else "poisson"
        steps.append(Step("noise", kind, dice.uniform(getattr(stage, kind)), grey=dice.chance(stage.grey)))
    return steps


def _draw_factor(dice: _Dice, stage: Stage) -> float:
    low, high = stage.resize
    if stage.resize_odds is None:
        return dice.uniform(stage.resize)
    return (dice.uniform((1.0, high)), dice.uniform((low, 1.0)), 1.0)[dice.place(stage.resize_odds)]


def _resizer(dice: _Dice, degradation: Degradation) -> str:
    names = degradation.resizers
    return names[dice.place((1.0,) * len(names))]


def _side(dice: _Dice, stage: Stage) -> int:
    """An odd side of the kernel."""
    low, high = (side // 2 for side in stage.kernel)
    return 2 * int(dice.uniform((low, high + 0.999))) + 1


def _draw_blur(dice: _Dice, stage: Stage) -> Step:
    """A Gaussian kernel, or a generalised or plateau-shaped one; sum 1."""
    name, side = KERNELS[dice.place(stage.kernel_odds)], _side(dice, stage)
    sx, sy, angle = dice.uniform(stage.blur_sigma), dice.uniform(stage.blur_sigma), dice.uniform((0, math.pi))
    if name in ("isotropic", "generalised", "plateau"):
        sy = sx
    beta = dice.uniform(stage.plateau if name.startswith("plateau") else stage.generalised)
    axis = torch.arange(side) - side // 2
    v, u = torch.meshgrid(axis.float(), axis.float(), indexing="ij")
    a, b = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    distance = (a / sx) ** 2 + (b / sy) ** 2
    if name.startswith("plateau"):
        kernel = 1 / (1 + distance**beta)
    else:
        kernel = torch.exp(-0.5 * distance ** (beta if name.startswith("generalised") else 1.0))
    return Step("blur", name, max(sx, sy), kernel=kernel / kernel.sum())


def _draw_sinc(dice: _Dice, stage: Stage) -> Step:
    side = _side(dice, stage)
    cutoff = dice.uniform((math.pi / (3 if side < 13 else 5), math.pi))
    return Step("sinc", strength=cutoff, kernel=sinc(cutoff, side))


def sinc(cutoff: float, side: int) -> Tensor:
    """(side, side): the circular low-pass filter of a cut-off in radians per px, sum 1; it rings as resampling does."""
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    distance = torch.hypot(axis[:, None], axis)
    kernel = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance.clamp(min=1e-9))
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def apply(step: Step, x_bchw: Tensor, generator: torch.Generator) -> Tensor:
    """One step done to pictures (B, 3, H, W) in [0, 1]; noise is drawn from the generator."""
    if step.kernel is not None:
        x = blur(x_bchw, step.kernel.to(x_bchw))
    elif step.size is not None:
        x = _resized(x_bchw, step.size, step.name)
    elif step.kind == "jpeg":
        x = jpeg(x_bchw, step.strength)
    else:
        x = _noisy(x_bchw, step, generator)
    return x.clamp(0, 1)


def _resized(x: Tensor, size: Size, name: str) -> Tensor:
    if name == "lanczos":
        return resize(x, size)
    corners = {} if name == "area" else {"align_corners": False}
    return F.interpolate(x, size=(size.height, size.width), mode=name, **corners)


def _noisy(x: Tensor, step: Step, generator: torch.Generator) -> Tensor:
    """Gaussian noise, or Poisson noise of 255 photons in its Gaussian limit, whose variance goes with the signal."""
    noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    if step.grey:
        noise = noise[:, :1]
    if step.name == "gaussian":
        return x + noise * step.strength / 255
    signal = x.mean(1, keepdim=True) if step.grey else x
    return x + noise * (signal.clamp(min=0) / 255).sqrt() * step.strength


def blur(x_bchw: Tensor, kernel: Tensor) -> Tensor:
    """Each channel convolved with one odd-sided kernel, borders mirrored."""
    half = kernel.shape[-1] // 2
    padded = F.pad(x_bchw, (half,) * 4, mode="reflect" if half < min(x_bchw.shape[-2:]) else "replicate")
    return F.conv2d(padded, kernel.expand(x_bchw.shape[1], 1, -1, -1), groups=x_bchw.shape[1])


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
