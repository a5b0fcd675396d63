"""Chooses the steps of a degradation and their parameters."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...geometry import Size
from .presets import KERNELS, NONE, OMGSR, Degradation, Range, Stage


@dataclass(frozen=True)
class Step:
    """One thing done to a picture. kind: blur, sinc, resize, noise or jpeg.

    name: the kernel's, the resizer's, the noise's or the JPEG codec's. size: of a resize, in px. strength: the largest
    sigma in px, the cut-off in radians per px, the noise's (gaussian in 1/255), or JPEG's quality.
    """

    kind: str
    name: str = ""
    strength: float = 0.0
    size: Size | None = None
    grey: bool = False
    kernel: Tensor | None = None
    beta: float = 1.0
    """The exponent of a generalised or plateau-shaped kernel; 1 is the Gaussian's."""

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


def draw(size: Size, generator: torch.Generator, degradation: Degradation = OMGSR) -> list[Step]:
    """The steps that a picture of `size` goes through, in their order."""
    if degradation == NONE:
        return []
    dice, second = _Dice(generator), degradation.second
    final = Size(size.height // degradation.scale, size.width // degradation.scale)
    steps = _draw_stage(dice, degradation, degradation.first, size)
    if dice.chance(degradation.first.jpeg_probability):
        steps.append(Step("jpeg", degradation.codec, dice.uniform(degradation.first.jpeg)))
    # The second stage's factor is of the final size, as in Real-ESRGAN.
    steps += _draw_stage(dice, degradation, second, final)
    last = [Step("resize", _resizer(dice, degradation), size=final)]
    if dice.chance(degradation.final_sinc):
        last.append(_draw_sinc(dice, second, _LEAST_CUTOFF))
    squeezed = []
    if dice.chance(second.jpeg_probability):
        squeezed.append(Step("jpeg", degradation.codec, dice.uniform(second.jpeg)))
    return steps + (last + squeezed if dice.chance(0.5) or not degradation.final_sinc else squeezed + last)


def _draw_stage(dice: _Dice, degradation: Degradation, stage: Stage, base: Size) -> list[Step]:
    """Blur, resize and noise."""
    steps = []
    if dice.chance(stage.blur_probability):
        steps.append(_draw_sinc(dice, stage) if dice.chance(stage.sinc) else _draw_blur(dice, stage))
    factor = _draw_factor(dice, stage)
    sides = (max(8, int(side * factor)) for side in (base.height, base.width))
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
    beta = _draw_beta(dice, name, stage)
    axis = torch.arange(side) - side // 2
    v, u = torch.meshgrid(axis.float(), axis.float(), indexing="ij")
    a, b = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    distance = (a / sx) ** 2 + (b / sy) ** 2
    power = distance**beta
    kernel = 1 / (1 + power) if name.startswith("plateau") else torch.exp(-0.5 * power)
    return Step("blur", name, max(sx, sy), kernel=kernel / kernel.sum(), beta=beta)


def _draw_beta(dice: _Dice, name: str, stage: Stage) -> float:
    """Half of the draws from the range's part below 1, half from that above, as Real-ESRGAN's code has it. Its plateau
    range begins at 1, so that half of those are exactly 1."""
    if not name.startswith(("generalised", "plateau")):
        return 1.0
    low, high = stage.plateau if name.startswith("plateau") else stage.generalised
    return dice.uniform((low, 1.0)) if dice.chance(0.5) else dice.uniform((1.0, high))


_LEAST_CUTOFF = math.pi / 3
"""Of the last sinc filter, in radians per px, whatever its side."""


def _draw_sinc(dice: _Dice, stage: Stage, least: float | None = None) -> Step:
    """Real-ESRGAN's cut-offs; without `least` they may be lower where the kernel is wide."""
    side = _side(dice, stage)
    if least is None:
        least = _LEAST_CUTOFF if side < stage.wide else math.pi / 5
    cutoff = dice.uniform((least, math.pi))
    return Step("sinc", strength=cutoff, kernel=sinc(cutoff, side))


def sinc(cutoff: float, side: int) -> Tensor:
    """(side, side): the circular low-pass filter of a cut-off in radians per px, sum 1; it rings as resampling does."""
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    distance = torch.hypot(axis[:, None], axis)
    kernel = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance.clamp(min=1e-9))
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()
