"""Carries out the steps of a degradation."""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ...geometry import Size
from ...picture.luma import FULL_RANGE
from ...picture.resample import resize
from .draw import Step, draw
from .jpeg import jpeg
from .presets import OMGSR, Codec, Degradation


def degrade(picture_chw: Tensor, generator: torch.Generator, degradation: Degradation = OMGSR) -> Tensor:
    """(3, H, W) -> (3, H // scale, W // scale), both in [0, 1]; in steps of 1/255 where the
    degradation is `rounded`."""
    x = picture_chw[None]
    for step in draw(Size(*picture_chw.shape[-2:]), generator, degradation):
        x = apply(step, x, generator)
    return (x[0] * 255).round() / 255 if degradation.rounded else x[0]


def apply(step: Step, x_bchw: Tensor, generator: torch.Generator) -> Tensor:
    """One step done to pictures (B, 3, H, W) in [0, 1]; noise is drawn from the generator."""
    if step.kernel is not None:
        x = blur(x_bchw, step.kernel.to(x_bchw))
    elif step.size is not None:
        x = _resized(x_bchw, step.size, step.name)
    elif step.kind == "jpeg":
        x = jpeg(x_bchw, step.strength, cast(Codec, step.name))
    else:
        x = _noisy(x_bchw, step, generator)
    return x.clamp(0, 1)


def _resized(x: Tensor, size: Size, name: str) -> Tensor:
    if name == "lanczos":
        return resize(x, size)
    corners = {} if name == "area" else {"align_corners": False}
    return F.interpolate(x, size=(size.height, size.width), mode=name, **corners)


def _noisy(x: Tensor, step: Step, generator: torch.Generator) -> Tensor:
    """Gaussian or Poisson noise, in each channel its own or, where the step is grey, the same."""
    signal = (x * x.new_tensor(FULL_RANGE).view(3, 1, 1)).sum(1, keepdim=True) if step.grey else x
    if step.name == "gaussian":
        noise = torch.randn(signal.shape, generator=generator, device=generator.device).to(x) / 255
    else:
        noise = _shot_noise(signal, generator)
    return x + noise * step.strength


def _shot_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson noise of as many photons at white as the picture has levels of 8 bits, rounded up to a power of 2, as
    in BasicSR's `generate_poisson_noise_pt`. (B, C, H, W), without the signal."""
    levels = (x * 255).round().clamp(0, 255) / 255
    counts = [2 ** math.ceil(math.log2(len(picture.unique()))) for picture in levels]
    photons = x.new_tensor(counts).view(-1, 1, 1, 1)
    drawn = torch.poisson((levels * photons).to(generator.device), generator=generator)
    return drawn.to(x) / photons - levels


def blur(x_bchw: Tensor, kernel: Tensor) -> Tensor:
    """Each channel convolved with one odd-sided kernel, borders mirrored."""
    half = kernel.shape[-1] // 2
    padded = F.pad(x_bchw, (half,) * 4, mode="reflect" if half < min(x_bchw.shape[-2:]) else "replicate")
    return F.conv2d(padded, kernel.expand(x_bchw.shape[1], 1, -1, -1), groups=x_bchw.shape[1])
