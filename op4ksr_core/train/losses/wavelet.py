"""Wavelet loss: Huber distance of orthonormal Haar bands, high bands weighted more than low ones."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ...picture.precision import at_least_single


def haar(x_bchw: Tensor) -> tuple[Tensor, Tensor]:
    """One orthonormal level: low (B, C, h, w) and high (B, C, 3, h, w); odd sides lose their last line."""
    height, width = (side // 2 * 2 for side in x_bchw.shape[-2:])
    a, b, c, d = rearrange(x_bchw[..., :height, :width], "b c (h p) (w q) -> (p q) b c h w", p=2, q=2)
    high = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d], dim=2)
    return (a + b + c + d) / 2, high / 2


def wavelet_loss(prediction_bchw: Tensor, target_bchw: Tensor, levels: int = 2, delta: float = 0.02) -> Tensor:
    """Mean Huber distance of the high bands of `levels` levels, each level weighing half the finer one."""
    low_p, low_t = at_least_single(prediction_bchw), at_least_single(target_bchw.detach())
    total = low_p.new_zeros(())
    for level in range(levels):
        (low_p, high_p), (low_t, high_t) = haar(low_p), haar(low_t)
        total = total + F.huber_loss(high_p, high_t, delta=delta) / delta * 0.5**level
    return total
