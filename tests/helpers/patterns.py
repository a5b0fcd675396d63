"""Pictures with and without a lattice."""

import math

import torch


def scene(side=512, seed=0):
    """Smooth shapes and faint noise: a clean picture with flat and busy parts, (3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")[0] * 0.5 + 0.25
    busy = torch.randn(3, side, side, generator=generator) * torch.linspace(0.003, 0.03, side)
    return ((smooth + busy).clamp(0, 1) * 255).round() / 255


def woven(side, period, amplitude):
    wave = torch.sin(2 * math.pi * torch.arange(side) / period)
    return amplitude / 255 * wave[:, None] * wave


def marked(x, period, amplitude):
    return ((x + woven(x.shape[-1], period, amplitude)).clamp(0, 1) * 255).round() / 255
