"""The same weights as others run them, in the same run as ours: diffusers' own layers, and a tiled one-step FLUX.

Tiles are 1024 px behind an F8 VAE, overlap by half and are blended by Gaussian weights.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import full_size

from .common import Clock, Method, Results

TILE, STEP = 1024, 512


def run(arguments: argparse.Namespace, results: Results, device: torch.device, dtype: torch.dtype) -> None:
    """Ours, then theirs, then the ratios."""
    side = 128 if arguments.tiny else 4096
    clock = Clock(device, 1)
    method = Method(device, dtype, arguments.tiny)
    picture = torch.rand(1, 3, side, side, device=device, dtype=dtype)
    for name, make in (("ours", ours), ("diffusers", diffusers), ("tiled", tiled)):
        with results.row(name) as row:
            row |= clock(make(method, picture))
    for rival in ("diffusers", "tiled"):
        rows = [results.rows[name] for name in (rival, "ours")]
        if all("s" in row for row in rows):
            results.add(f"{rival} over ours", {key: rows[0][key] / rows[1][key] for key in ("s", "peak_gb")})


def ours(method: Method, picture: Tensor) -> Callable[[], Any]:
    """Encode, step and decode of the whole picture."""
    return lambda: method.decode(method.step(method.encode(picture)))


def diffusers(method: Method, picture: Tensor) -> Callable[[], Any]:
    """Strided conv_in and nearest x2 before conv_out, in diffusers' own layers of the VAE."""
    vae = their_vae(method)
    vae.encoder.conv_in.stride = (2, 2)
    vae.decoder.conv_out = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), vae.decoder.conv_out)
    return lambda: vae.decode(method.step(vae.encode(picture).latent_dist.mode().float()).to(method.dtype)).sample


def tiled(method: Method, picture: Tensor) -> Callable[[], Any]:
    """The whole picture as tiled upscalers make it."""
    vae, side = their_vae(method), picture.shape[-1]
    tile = min(TILE, side // 2)
    step = min(STEP, tile // 2)
    starts = range(0, side - tile + 1, step)
    ramp = torch.exp(-0.5 * (torch.linspace(-1, 1, tile, device=method.device) / 0.4) ** 2)
    weight = ramp[:, None] * ramp

    def whole() -> Tensor:
        total, share = torch.zeros_like(picture), torch.zeros_like(picture[:, :1])
        for top in starts:
            for left in starts:
                place = (..., slice(top, top + tile), slice(left, left + tile))
                z = vae.encode(picture[place]).latent_dist.mode().float()
                total[place] += vae.decode(method.step(z).to(method.dtype)).sample * weight
                share[place] += weight
        return total / share

    return whole


def their_vae(method: Method) -> Any:
    make = full_size.tiny_vae if method.tiny else full_size.vae
    return make(method.device, method.dtype, factor=8)
