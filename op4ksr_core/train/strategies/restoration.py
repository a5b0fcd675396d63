"""The losses of a restored picture and its latent that need no further network."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...lattice.autocorrelation import autocorrelation_loss
from ...model.vae import encode
from ...picture.colour import back_project
from ..losses.lrr import latent_refinement_loss
from ..losses.wavelet import wavelet_loss
from ..settings import TrainSettings
from .protocol import Batch, Restored


def picture_losses(settings: TrainSettings, batch: Batch, picture: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(losses by name, unweighted, of those whose weight is not 0; the picture that they see, after back-projection).

    `picture` is the decoded one, (B, 3, H, W).
    """
    hr, weights = batch["hr"], settings.losses
    shown = back_project(picture, batch["lr"], settings.fidelity) if settings.fidelity else picture
    losses: dict[str, Tensor] = {}
    if weights.mse:
        losses["mse"] = F.mse_loss(shown, hr)
    if weights.l1:
        losses["l1"] = F.l1_loss(shown, hr)
    if weights.wavelet:
        losses["wavelet"] = wavelet_loss(shown, hr)
    if weights.periodicity:
        losses["periodicity"] = autocorrelation_loss(
            shown, hr, normalise=settings.lap_normalise, highpassed=settings.lap_highpass
        )
    return losses, shown


def restoration_losses(
    settings: TrainSettings, batch: Batch, made: Restored, vae: Any, encoder: nn.Module
) -> tuple[dict[str, Tensor], Tensor]:
    """`picture_losses` and L_vae: the latent against the HR picture's by `encoder`, the VAE's own before training."""
    losses, shown = picture_losses(settings, batch, made.picture)
    if settings.losses.refinement:
        z_hr = encode_by(vae, encoder, batch["hr"])
        noise = noise_of(batch["seed"], z_hr)
        losses["refinement"] = latent_refinement_loss(made.z_lr, z_hr, noise, settings.sigma)
    return losses, shown


def posterior_seed(settings: TrainSettings, batch: Batch) -> int | None:
    """What the encoder's posterior is sampled by; None for its mode."""
    return int(batch["seed"][0]) if settings.sample_posterior else None


def encode_by(vae: Any, encoder: nn.Module, rgb_bchw: Tensor) -> Tensor:
    """The latent by another encoder than the VAE's present one, float32, without gradients."""
    present = vae.encoder
    vae.encoder = encoder
    try:
        with torch.no_grad():
            return encode(vae, rgb_bchw.to(vae.dtype)).float()
    finally:
        vae.encoder = present


def noise_of(seeds: Tensor, like: Tensor) -> Tensor:
    """Gaussian noise in the shape of a batch, each sample's from its own seed."""
    drawn = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(int(s) + 1)) for s in seeds]
    return torch.stack(drawn).to(like)
