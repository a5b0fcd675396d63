"""UltraFlux's shapes without its weights: the 11.9-billion-parameter transformer and the F16 VAE."""

from typing import Any

import torch
from torch import nn

from op4ksr_core.model.vae import make_f16
from op4ksr_core.weights.configs import FLUX_VAE

TOKENS, WIDTH, POOLED = 512, 4096, 768
"""The prompt: T5's length and width, CLIP's width."""


def transformer(device: torch.device | str, dtype: torch.dtype, layers: tuple[int, int] = (19, 38)) -> Any:
    """FLUX.1-dev's transformer of `layers` double and single blocks, made on the device, with new weights."""
    from diffusers import FluxTransformer2DModel

    with torch.device(device):
        return built(
            lambda: FluxTransformer2DModel(guidance_embeds=True, num_layers=layers[0], num_single_layers=layers[1]),
            dtype,
        )


def vae(
    device: torch.device | str,
    dtype: torch.dtype,
    factor: int = 16,
    channels: tuple[int, ...] = (128, 256, 512, 512),
) -> Any:
    """FLUX.1's autoencoder, at F16 as the method has it or at F8 as it is."""
    from diffusers import AutoencoderKL

    shape = FLUX_VAE | {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": list(channels),
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    with torch.device(device):
        whole = built(lambda: AutoencoderKL(**shape), dtype)
    return make_f16(whole) if factor == 16 else whole


def tiny_transformer(device: torch.device | str, dtype: torch.dtype) -> Any:
    """The same layers, 64 wide and two deep, to rehearse with."""
    from diffusers import FluxTransformer2DModel

    shape = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (8, 12, 12),
        "guidance_embeds": True,
    }
    with torch.device(device):
        return built(lambda: FluxTransformer2DModel(**shape), dtype)


def tiny_vae(device: torch.device | str, dtype: torch.dtype, factor: int = 16) -> Any:
    """The same halves, narrow but for the middle, whose head of 288 is still too wide for fused kernels."""
    return vae(device, dtype, factor, (32, 32, 64, 288))


def built(make: Any, dtype: torch.dtype) -> nn.Module:
    """Makes a module in `dtype` from the start, so that float32 weights never take the room of two."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make().requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(before)
