"""Variational score distillation in latent space, as OSEDiff has it (arXiv 2406.08177)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def guided(conditional: Tensor, unconditional: Tensor, scale: float = 7.5) -> Tensor:
    """Classifier-free guidance: unconditional + scale * (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


def clean_latent(z_sigma: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The flow's estimate of z_HR: z_sigma - sigma * v; sigma is (B,)."""
    return z_sigma - sigma.view(-1, 1, 1, 1) * velocity


def vsd_loss(z: Tensor, clean_fixed: Tensor, clean_updated: Tensor) -> Tensor:
    """MSE(z, stopgrad(z - g)), g = (x0_updated - x0_fixed) / mean |z - x0_fixed| of each sample: a scalar.

    z (B, C, H, W) is the restored latent. The two estimates of its noised state come from the frozen, guided prior and
    from the one that learns the restored latents; no gradient reaches them.
    """
    with torch.no_grad():
        z0, fixed, updated = z.float(), clean_fixed.float(), clean_updated.float()
        distance = (z0 - fixed).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-8)
        target = z0 - (updated - fixed) / distance
    return F.mse_loss(z.float(), target)
