"""Stable Diffusion's families (OSEDiff, TVT, F2IDiff-SR) as ComfyUI's MODEL and VAE."""

from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..op4ksr_core.errors import SettingError, WeightsError
from ..op4ksr_core.weights.files import find_weights, listing
from ..op4ksr_core.weights.unet_sources import SD_VAE, prediction_of
from . import versions
from .native_models import autoencoder


def load_sd_folder(folder: Path, given_vae: VAE | None = None) -> tuple[ModelPatcher, VAE]:
    """A diffusers folder with `unet` and `vae` (Stable Diffusion 2.1-base, TVT's CE-UNet and VAE-D4) as native models.

    A VAE that is given goes before the folder's. Raises WeightsError.
    """
    model = _load_unet(folder / "unet")
    versions.remember_loader(model, _load_unet, folder / "unet")
    if given_vae is not None:
        return model, given_vae
    if not (folder / "vae").is_dir():
        raise WeightsError(f"{folder} has no vae. Connect one.")
    vae = _load_vae(folder / "vae")
    versions.remember_loader(vae.patcher, _load_vae_patcher, folder / "vae")
    return model, vae


def _load_unet(folder: Path, disable_dynamic: bool = False) -> ModelPatcher:
    files = find_weights(folder)
    if files.config is None:
        raise WeightsError(f"{folder} has no config.json, which says how the UNet is built.")
    return _unet(files.tensors(), unet_config(files.config), prediction_of(folder), str(folder), disable_dynamic)


def _load_vae(folder: Path) -> VAE:
    files = find_weights(folder)
    numbers = SD_VAE | {k: v for k, v in (files.config or {}).items() if k in SD_VAE and v is not None}
    return autoencoder(folder, numbers)


def _load_vae_patcher(folder: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """`disable_dynamic` is not heeded, as in ComfyUI's own loader: only the module is used of what is returned."""
    return _load_vae(folder).patcher


def unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's settings of a UNet from diffusers' config.json. Raises WeightsError on a kind that is none of these."""
    missing = [name for name in ("block_out_channels", "down_block_types", "cross_attention_dim") if name not in config]
    if missing:
        raise WeightsError(f"This config.json describes no Stable Diffusion UNet: it lacks {listing(missing)}.")
    widths, layers = config["block_out_channels"], config.get("layers_per_block", 2)
    if not isinstance(layers, int) or any(width % widths[0] for width in widths):
        raise WeightsError(f"This UNet's levels of {widths} channels and {layers} layers are not Stable Diffusion's.")
    depths = [int("CrossAttn" in kind) for kind in config["down_block_types"]]
    # diffusers' name says channels and means a number of heads: one for all levels (SD 1), or one each (SD 2).
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    channels = -1
    if isinstance(heads, list):
        each = {width // count for width, count in zip(widths, heads, strict=True)}
        if len(each) != 1:
            raise WeightsError(f"This UNet's heads are {sorted(each)} channels wide; ComfyUI's have one width.")
        heads, channels = -1, each.pop()
    return {
        "image_size": 32,
        "use_checkpoint": False,
        "legacy": False,
        "use_spatial_transformer": True,
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "num_heads": heads,
        "num_head_channels": channels,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }


def _unet(
    state: dict[str, Tensor], config: dict[str, Any], prediction: str, origin: str, disable_dynamic: bool
) -> ModelPatcher:
    """The model by ComfyUI's own class for Stable Diffusion 2, whatever its widths and levels."""
    keys = comfy.utils.unet_to_diffusers(config)
    stray = sorted(state.keys() - keys.keys())
    if stray:
        raise WeightsError(f"{origin} is no Stable Diffusion UNet that ComfyUI knows: {listing(stray)}.")
    settings = comfy.supported_models.SD20(config)
    device = comfy.model_management.get_torch_device()
    dtype = torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
    own_heads = {name: config[name] for name in ("num_heads", "num_head_channels")}  # ComfyUI assumes 64 channels each
    settings.unet_config |= {"dtype": dtype} | own_heads
    settings.set_inference_dtype(dtype, None)
    kind = comfy.model_base.ModelType[{"epsilon": "EPS", "v_prediction": "V_PREDICTION"}[prediction]]
    model = comfy.model_base.BaseModel(settings, kind, comfy.model_management.unet_offload_device())
    patcher = versions.new_patcher(model, plain=disable_dynamic)
    own = {keys[key]: value.to(dtype) for key, value in state.items()}
    versions.load_weights(model.diffusion_model, own, "The UNet", versions.is_dynamic(patcher))
    return patcher


def unet_targets(model: ModelPatcher) -> dict[str, str]:
    """diffusers' UNet modules -> this MODEL's weights. Raises SettingError on anything but a Stable Diffusion UNet."""
    keys = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    if not keys:
        raise SettingError(
            f"OSEDiff and TVT are for Stable Diffusion UNets; this MODEL is {type(model.model).__name__}."
        )
    named = {
        key.removesuffix(".weight"): f"diffusion_model.{own}" for key, own in keys.items() if key.endswith(".weight")
    }
    present = model.model.state_dict().keys()  # ComfyUI's map names a downsampler behind the last level, too
    return {module: key for module, key in named.items() if key in present}
