"""Whole-picture VAE passes on ComfyUI's VAE, which never fall back to tiles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer
from comfy.ldm.modules.diffusionmodules.model import AttnBlock
from comfy.sd import VAE
from einops import rearrange
from torch import Tensor

from ..op4ksr_core.errors import SettingError
from ..op4ksr_core.model.finite import check_finite
from ..op4ksr_core.model.layer_weights import casting
from ..op4ksr_core.model.vae import posterior_latent
from ..op4ksr_core.model.vae_passes import passing
from ..op4ksr_core.model.wide_attention import way_of, wide_attention
from ..op4ksr_core.progress import Progress
from .memory import tell_pass, until_it_fits, vae_passes
from .progress import make_report
from .versions import cast_weights, on_device

_OTHER_DTYPE = "Start ComfyUI with --bf16-vae or --fp32-vae."


def encode_whole(vae: VAE, x_bchw: Tensor, report: Progress | None = None, posterior_seed: int | None = None) -> Tensor:
    """Pictures in [0, 1] -> latents as ComfyUI keeps them (not shifted or scaled), one picture at a time, no tiles.

    The posterior's mode, or the core's sample of it from `posterior_seed`. Without a `report` the node's bar shows this
    phase alone. Raises SettingError where there is a seed and the VAE has no posterior.
    """
    if posterior_seed is not None:
        check_posterior(vae)

    def encoded(model: Any) -> list[Tensor]:
        run = model.encode if posterior_seed is None else partial(_moments, model)
        return [run((x * 2 - 1).to(vae.vae_dtype).to(vae.device)).float() for x in x_bchw.split(1)]

    height, width = x_bchw.shape[-2:]
    found = torch.cat(_in_passes(vae, "encode", height, width, len(x_bchw), encoded, report or make_report()))
    z = found if posterior_seed is None else posterior_latent(found, posterior_seed)
    return check_finite(z, "The VAE's encoder", vae.vae_dtype, _OTHER_DTYPE).to(vae.output_device)


def check_posterior(vae: VAE) -> None:
    """Raises SettingError unless the VAE's encoder gives mean and log variance, and nothing changes a latent after."""
    model = vae.first_stage_model
    is_gaussian = isinstance(getattr(model, "regularization", None), DiagonalGaussianRegularizer)
    if not is_gaussian or getattr(model, "bn", None) is not None:  # bn: FLUX.2's, of 0.33.0
        raise SettingError(
            f"posterior_seed samples the VAE's posterior, and this {type(model).__name__} has none. Choose a preset "
            "without it (embedded, op4ksr, ultraflux), or the VAE that belongs to the preset."
        )


def _moments(model: Any, x: Tensor) -> Tensor:
    """Mean and log variance, before ComfyUI takes their mode."""
    quant_conv = getattr(model, "quant_conv", None)
    moments = model.encoder(x)
    return moments if quant_conv is None else quant_conv(moments)


def decode_whole(vae: VAE, samples: Tensor, report: Progress | None = None) -> Tensor:
    """Latents -> pictures about [0, 1], not clamped, (B, 3, H, W), one at a time, no tiles."""

    def decoded(model: Any) -> list[Tensor]:
        return [model.decode(z.to(vae.vae_dtype).to(vae.device)).float() * 0.5 + 0.5 for z in samples.split(1)]

    height, width = (side * vae.downscale_ratio for side in samples.shape[-2:])
    parts = _in_passes(vae, "decode", height, width, len(samples), decoded, report or make_report())
    return check_finite(torch.cat(parts), "The VAE's decoder", vae.vae_dtype, _OTHER_DTYPE).to(vae.output_device)


def _in_passes(
    vae: VAE,
    phase: str,
    height: int,
    width: int,
    rounds: int,
    work: Callable[[Any], list[Tensor]],
    report: Progress,
) -> list[Tensor]:
    """One half of the VAE over whole pictures: as planned, again after freeing memory, then in leaner passes."""
    vae.throw_exception_if_invalid()
    ways = vae_passes(vae, height * width, phase == "decode")
    tell_pass(phase, ways[0][0], vae.device)

    def attempt(how: str, needed: float) -> list[Tensor]:
        comfy.model_management.load_models_gpu(
            [vae.patcher], memory_required=needed, force_full_load=vae.disable_offload
        )
        model = vae.first_stage_model
        half = model.decoder if phase == "decode" else model.encoder
        with (
            on_device(vae.device),
            passing(half, how, phase, report, rounds),
            casting(cast_weights),
            _own_attention(half, vae.device),
        ):
            return work(model)

    attempts = [(how, partial(attempt, how, needed)) for how, needed in (ways[0], *ways)]
    return until_it_fits(attempts, f"{phase} of {width}x{height} px", vae.device)


@contextmanager
def _own_attention(half: Any, device: torch.device) -> Iterator[None]:
    """Inside, the middle's one wide head runs by the core's way for the device. Where that is PyTorch's call, and on
    devices that the core has no way for, ComfyUI's own choice stays."""
    blocks = [
        block
        for block in half.modules()
        if isinstance(block, AttnBlock) and way_of(device, block.in_channels) != "call"
    ]
    before = [block.optimized_attention for block in blocks]
    for block in blocks:
        block.optimized_attention = _attend
    try:
        yield
    finally:
        for block, attention in zip(blocks, before, strict=True):
            block.optimized_attention = attention


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over maps (B, C, H, W), one head of C."""
    one_q, one_k, one_v = (rearrange(x, "b c h w -> b 1 (h w) c") for x in (q, k, v))
    return rearrange(wide_attention(one_q, one_k, one_v), "b 1 (h w) c -> b c h w", h=q.shape[2])
