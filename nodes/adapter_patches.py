"""Adapters on ComfyUI's MODEL and VAE, as patches of clones that undo themselves."""

import comfy.lora
import comfy.model_sampling
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..op4ksr_core.errors import SettingError, WeightsError
from ..op4ksr_core.weights.adapters import Adapter
from ..op4ksr_core.weights.files import listing
from ..op4ksr_core.weights.key_layouts import vae_key_to_ldm
from ..op4ksr_core.weights.unet_adapters import UNetAdapter
from .versions import shape_of


def with_adapter(patcher: ModelPatcher, targets: dict, adapter: Adapter, strength: float) -> ModelPatcher:
    """A clone with the LoRA added times `strength`; `targets` maps diffusers' modules to the model's weights.

    Raises WeightsError where a tensor of the adapter has no place, or not its shape.
    """
    lora = adapter.state | _alphas(adapter)
    patches = comfy.lora.load_lora(lora, targets, log_missing=False)
    placed = {key for patch in patches.values() for key in patch.loaded_keys}
    stray = sorted(adapter.state.keys() - placed)
    if stray:
        raise WeightsError(f"The adapter {adapter.origin} is for another model; it has no place for {listing(stray)}.")
    _check_shapes(patcher, patches, adapter)
    patched = patcher.clone()
    patched.add_patches(patches, strength)
    return patched


def _alphas(adapter: Adapter) -> dict[str, Tensor]:
    """Each module's alpha, which ComfyUI divides by the rank."""
    return {f"{module}.alpha": torch.tensor(adapter.alpha_of(module)) for module in adapter.modules()}


def _check_shapes(patcher: ModelPatcher, patches: dict, adapter: Adapter) -> None:
    wrong = []
    for target, patch in patches.items():
        key, rows = (target, None) if isinstance(target, str) else (target[0], target[1][2])
        up, down = patch.weights[0], patch.weights[1]
        shape = shape_of(patcher.model, key)
        if up.shape[0] != (rows or shape[0]) or down.shape[1] != shape[1]:
            wrong.append(f"{key}: {up.shape[0]}x{down.shape[1]} for {rows or shape[0]}x{shape[1]}")
    if wrong:
        raise WeightsError(f"The adapter {adapter.origin} is for another model; mis-shaped {listing(wrong)}.")


def transformer_targets(model: ModelPatcher) -> dict:
    """diffusers' FLUX modules -> this MODEL's weights. Raises SettingError on anything but FLUX."""
    config = model.model.model_config.unet_config
    if config.get("image_model") != "flux":
        raise SettingError(f"These adapters are for FLUX transformers; this MODEL is {type(model.model).__name__}.")
    keys = comfy.utils.flux_to_diffusers(config, output_prefix="diffusion_model.")
    return {key.removesuffix(".weight"): target for key, target in keys.items() if key.endswith(".weight")}


def encoder_targets(vae: VAE, adapter: Adapter) -> dict:
    """diffusers' encoder modules of the adapter -> this VAE's weights."""
    modules = {key.rsplit(".", 2)[0] for key in adapter.state}
    present = vae.first_stage_model.state_dict()
    named = {module: f"{vae_key_to_ldm(f'encoder.{module}.weight')}" for module in modules}
    return {module: key for module, key in named.items() if key in present}


def with_unet_adapter(
    patcher: ModelPatcher, targets: dict, part: str, found: UNetAdapter, strength: float
) -> ModelPatcher:
    """A clone with the replaced layers and, on top of them, the LoRA times `strength`."""
    placed = {}
    for key, value in found.layers[part].items():
        module, _, kind = key.rpartition(".")
        target = targets.get(module)
        name = None if target is None else f"{target.removesuffix('.weight')}.{kind}"
        if name is None or shape_of(patcher.model, name) != tuple(value.shape):
            raise WeightsError(f"{found.origin} is for another base; it has no place for {part}.{key}.")
        placed[name] = ("set", (value,))
    patched = patcher.clone()
    if placed and strength:
        patched.add_patches(placed, 1.0)
    return with_adapter(patched, targets, found.lora[part], strength) if part in found.lora else patched


def check_base(model: ModelPatcher, found: UNetAdapter) -> None:
    """Raises SettingError where the MODEL predicts v: the adapters are for stable-diffusion-2-1-base."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        raise SettingError(
            f"This MODEL predicts v, as stable-diffusion-2-1 (768 px) does; {found.origin} is for "
            "stable-diffusion-2-1-base, which predicts noise."
        )


def unet_vae_targets(vae: VAE, found: UNetAdapter) -> dict[str, str]:
    """diffusers' modules of the encoder and quant_conv -> this VAE's weights."""
    lora = found.lora["vae"]
    inside = {k.removeprefix("encoder."): v for k, v in lora.state.items() if k.startswith("encoder.")}
    named = encoder_targets(vae, Adapter(lora.origin, lora.config, inside))
    return {f"encoder.{module}": key for module, key in named.items()} | {"quant_conv": "quant_conv.weight"}
