"""Stage a: the F16 VAE as an autoencoder of clean pictures (and, one in four, of enlarged small ones)."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.model.vae import decode, encode
from op4ksr_core.train.losses.wavelet import wavelet_loss

from .crop_pool import CropPool, HeldOut, enlarged
from .figures import energy_and_correlation, psnr
from .loop import Figures, Loop, read
from .networks import VAE_CONFIG, half_where_fast, new_vae
from .norms import DROPLET, excess_of, inner_norms

CROPS = {"cpu": ((128, 8), (192, 4), (384, 1)), "cuda": ((192, 96), (256, 48), (512, 12))}
"""(side, crops a step), about equal in cost."""

NOISE = 0.05
"""Noise on the latents in training, in their standard deviations: the decoder must forgive small errors."""

LOG_VARIANCE, SPREAD = -6.0, 1e-3
"""Where the posterior's log variance is drawn to, and how strongly it and the latents' mean square are."""


def picture_loss(made: Tensor, truth: Tensor) -> Tensor:
    """5 MSE + L1 + 0.25 wavelet, on [0, 1]."""
    return 5 * F.mse_loss(made, truth) + F.l1_loss(made, truth) + 0.25 * wavelet_loss(made, truth)


def train(run: Path, pool: CropPool, held_out: HeldOut, minutes: float, start: Path | None, rate: float = 1e-3) -> None:
    vae, device = new_vae(), pool.patches.device
    if start is not None:
        vae.load_state_dict(read(start))
    vae.to(device, memory_format=torch.channels_last)
    settings = {"channels": VAE_CONFIG["block_out_channels"], "latent": VAE_CONFIG["latent_channels"], "noise": NOISE}
    loop = Loop("vae", run, vae, minutes, rate, settings, muon=(4,))

    def loss(rng: random.Random, step: int) -> Tensor:
        side, count = rng.choice(CROPS[device.type])
        small, hr, _ = pool.pairs(rng, count, side)
        blurred = count // 4
        hr = torch.cat([enlarged(small[:blurred]), hr[blurred:]])
        with half_where_fast(device), inner_norms(vae, pooled=rng.random() < 0.5):
            mean, log_variance = vae.encoder(hr * 2 - 1).float().chunk(2, dim=1)
            z = mean + torch.randn_like(mean) * NOISE * mean.std().detach()
            made = vae.decoder(z).float() * 0.5 + 0.5
            droplets = DROPLET * excess_of(vae)
        spread = mean.square().mean().sub(1).relu() + (log_variance - LOG_VARIANCE).square().mean()
        return picture_loss(made, hr) + SPREAD * spread + droplets

    loop.train(loss, figures_of(held_out))


def figures_of(held_out: HeldOut) -> Callable[[nn.Module], Figures]:
    """Encode and decode of the held-out crops, clean, and of two large ones (`whole`)."""
    hr, clean = held_out.hr, held_out.clean

    def figures(vae: nn.Module) -> Figures:
        with torch.no_grad(), half_where_fast(hr.device):
            made = torch.cat([decode(vae, encode(vae, part)).float() for part in hr.split(4)])
            whole = decode(vae, encode(vae, clean)).float()
        energy, correlation = energy_and_correlation(made, hr)
        value = psnr(made, hr)
        return {
            "psnr": value,
            "hf_energy_db": energy,
            "hf_correlation": correlation,
            "whole": psnr(whole, clean),
            "score": value,
        }

    return figures
