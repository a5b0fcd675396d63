"""Variational score distillation in latent space, as OSEDiff has it (arXiv 2406.08177)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.flow import clean_latent
from ...picture.precision import at_least_single


def guided(conditional: Tensor, unconditional: Tensor, scale: float = 7.5) -> Tensor:
    """Classifier-free guidance: unconditional + scale * (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


def vsd_loss(z: Tensor, clean_fixed: Tensor, clean_updated: Tensor) -> Tensor:
    """MSE(z, stopgrad(z - g)), g = (x0_updated - x0_fixed) / mean |z - x0_fixed| of each sample: a scalar.

    z (B, C, H, W) is the restored latent. The two estimates of its noised state come from the frozen, guided prior and
    from the one that learns the restored latents; no gradient reaches them.
    """
    with torch.no_grad():
        z0, fixed, updated = (at_least_single(x) for x in (z, clean_fixed, clean_updated))
        distance = (z0 - fixed).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-8)
        target = z0 - (updated - fixed) / distance
    return F.mse_loss(at_least_single(z), target)


class VSDLoss(nn.Module):
    """`vsd_loss` on the velocities of the two priors at a noised state, the frozen one guided."""

    def __init__(self, guidance: float = 7.5):
        super().__init__()
        self.guidance = guidance

    def forward(
        self,
        z: Tensor,
        z_sigma: Tensor,
        sigma: Tensor,
        fixed_conditional: Tensor,
        fixed_unconditional: Tensor,
        updated: Tensor,
    ) -> Tensor:
        fixed = guided(fixed_conditional, fixed_unconditional, self.guidance)
        return vsd_loss(z, clean_latent(z_sigma, fixed, sigma), clean_latent(z_sigma, updated, sigma))
