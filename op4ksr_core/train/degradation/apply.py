"""Carries out the steps of a degradation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...geometry import Size
from ...picture.resample import resize
from .draw import Step, draw
from .jpeg import jpeg
from .presets import OMGSR, Degradation


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
