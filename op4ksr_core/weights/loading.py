"""Safetensors -> diffusers models. Strict: every key is accounted for."""

from pathlib import Path
from typing import Any

import torch

from ..model.head_choice import take_head_in_register
from ..model.plain_flux import Autoencoder, FluxTransformer
from ..model.vae import make_f16
from . import key_layouts
from .configs import head_by, is_strided, transformer_config, vae_config
from .files import find_model, load_strictly


def load_transformer(path: str | Path, dtype: torch.dtype = torch.float32, plain: bool = False) -> Any:
    """A FLUX transformer from a diffusers folder or one safetensors file, diffusers or BFL layout.

    Any width and depth; in evaluation mode, frozen, on the CPU. `plain` makes it our own lean one in place of
    diffusers'. Raises WeightsError as `find_weights` does and where a key is missing, unexpected or mis-shaped.
    """
    if plain:
        kind: Any = FluxTransformer
    else:
        from diffusers import FluxTransformer2DModel as kind

    state = find_model(path, "transformer").tensors()
    if key_layouts.is_bfl_transformer(set(state)):
        state = key_layouts.transformer_to_diffusers(state)
    with torch.device("meta"):
        model: Any = kind(**transformer_config({k: tuple(v.shape) for k, v in state.items()}, path))
    load_strictly(model, state, str(path), dtype)
    return model.requires_grad_(False).eval()


def load_vae(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    f16: bool | None = None,
    head: str = "auto",
    plain: bool = False,
) -> Any:
    """A FLUX-shaped autoencoder from a diffusers folder or one safetensors file (diffusers or BFL layout).

    `f16` makes it 16x (stride 2); None reads `stride` from the folder's config.json and raises
    SettingError where there is none, for the tensors of an F8 and an F16 VAE look the same. `head`, one of HEADS, is
    the F16 decoder's: auto takes what config.json names, else measures which is in register. `plain` makes it our own
    lean one in place of diffusers'.
    """
    if plain:
        kind: Any = Autoencoder
    else:
        from diffusers import AutoencoderKL as kind

    files = find_model(path, "VAE")
    state = files.tensors()
    if key_layouts.is_ldm_vae(set(state)):
        state = key_layouts.vae_to_diffusers(state)
    strided = is_strided(files, f16)
    with torch.device("meta"):
        vae = kind(**vae_config({k: tuple(v.shape) for k, v in state.items()}, files.config, path))
    load_strictly(vae, state, str(path), dtype)
    return _made_f16(vae, head_by(files.config or {}) if head == "auto" else head) if strided else vae


def _made_f16(vae: Any, head: str) -> Any:
    """The VAE at 16x; auto measures which head is in register."""
    if head != "auto":
        return make_f16(vae, head)
    take_head_in_register(make_f16(vae))
    return vae
