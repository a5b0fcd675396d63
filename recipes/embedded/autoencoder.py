"""Stage a: the F16 VAE as an autoencoder of clean pictures (and, one in four, of enlarged small ones)."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.model.vae import decode, encode
from op4ksr_core.picture.resample import resize
from op4ksr_core.train.losses.wavelet import wavelet_loss

from .figures import detail_and_right, psnr
from .loop import Figures, Loop
from .networks import VAE_CONFIG, half_where_fast, new_vae
from .norms import DROPLET, excess_of, inner_norms
from .pictures import Pictures, degraded

CROPS = ((128, 8), (192, 4), (384, 1))
"""(side, crops a step), equal in cost."""

NOISE = 0.05
"""Noise on the latents in training, in their standard deviations: the decoder must forgive small errors."""

LOG_VARIANCE, SPREAD = -6.0, 1e-3
"""Where the posterior's log variance is drawn to, and how strongly it and the latents' mean square are."""


def picture_loss(made: Tensor, truth: Tensor) -> Tensor:
    """5 MSE + L1 + 0.25 wavelet, on [0, 1]."""
    return 5 * F.mse_loss(made, truth) + F.l1_loss(made, truth) + 0.25 * wavelet_loss(made, truth)


def train(run: Path, photos: Path, minutes: float) -> None:
    pictures, vae = Pictures.load(photos), new_vae()
    settings = {"channels": VAE_CONFIG["block_out_channels"], "latent": VAE_CONFIG["latent_channels"], "noise": NOISE}
    loop = Loop("vae", run, vae, minutes, 1e-3, settings, muon=4)

    def loss(rng: random.Random, step: int) -> Tensor:
        side, count = rng.choice(CROPS)
        hr = pictures.batch(rng, count, side)
        blurred = count // 4
        if blurred:
            hr[:blurred] = resize(degraded(hr[:blurred], rng), Size(side, side))
        with half_where_fast(), inner_norms(vae, pooled=rng.random() < 0.5):
            mean, log_variance = vae.encoder(hr * 2 - 1).float().chunk(2, dim=1)
            z = mean + torch.randn_like(mean) * NOISE * mean.std().detach()
            made = vae.decoder(z).float() * 0.5 + 0.5
            droplets = DROPLET * excess_of(vae)
        spread = mean.square().mean().sub(1).relu() + (log_variance - LOG_VARIANCE).square().mean()
        return picture_loss(made, hr) + SPREAD * spread + droplets

    loop.train(loss, held_out_figures(photos))


def held_out_figures(photos: Path) -> Callable[[Any], Figures]:
    """Encode and decode of 24 clean crops of the held-out photographs."""
    hr = Pictures.load(photos, held_out=True).batch(random.Random(7), 24, 256)

    def figures(vae: nn.Module) -> Figures:
        with torch.no_grad(), half_where_fast():
            made = torch.cat([decode(vae, encode(vae, part)).float() for part in hr.split(4)])
        detail, right = detail_and_right(made, hr)
        value = psnr(made, hr)
        return {"psnr": value, "detail": detail, "right": right, "score": value}

    return figures
