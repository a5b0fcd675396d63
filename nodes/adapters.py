"""OP4KSR, OMGSR, OSEDiff and TVT adapters on ComfyUI's MODEL and VAE, as patches that undo themselves."""

import copy
from pathlib import Path

import comfy.lora
import comfy.model_sampling
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ..op4ksr_core.errors import SettingError, WeightsError
from ..op4ksr_core.files import at_home
from ..op4ksr_core.weights.adapters import ADAPTER_FOLDERS, Adapter, find_adapters
from ..op4ksr_core.weights.files import listing
from ..op4ksr_core.weights.key_layouts import vae_key_to_ldm
from ..op4ksr_core.weights.unet_adapters import UNetAdapter, find_unet_adapter, is_unet_adapter
from .load import newest
from .schema import node_schema
from .unets import unet_targets
from .versions import shape_of


def available_adapters() -> list[str]:
    """Names below ComfyUI's `loras` folders: single files, and folders in OMGSR's layout."""
    names = set()
    for name in folder_paths.get_filename_list("loras"):
        parents = [p for p in Path(name).parents if p.name in ADAPTER_FOLDERS.values()]
        names.add(str(parents[0].parent) if parents else name)
    return sorted(names - {"."})


def adapter_path(name: str) -> Path:
    """The file or folder behind a name of `available_adapters`. Raises WeightsError where there is none inside them."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise WeightsError(f"The adapter {name} lies outside ComfyUI's loras folders; name one inside.")
    for root in folder_paths.get_folder_paths("loras"):
        if at_home(Path(root) / name).exists():
            return Path(root) / name
    raise WeightsError(f"There is no adapter {name} in {listing(folder_paths.get_folder_paths('loras'))}.")


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


class LoadAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadAdapters",
            "Load OP4KSR adapters",
            ["lora", "omgsr", "peft", "load adapter"],
            description="OP4KSR or OMGSR adapters on a FLUX MODEL and its VAE's encoder. They lie in models/loras: "
            "a folder with flux_adapter and vae_encoder_adapter, or one file with both.",
            inputs=[
                io.Model.Input("model", tooltip="The FLUX model that the adapters were made for."),
                io.Vae.Input("vae", tooltip="Its VAE; the adapter changes the encoder."),
                io.Combo.Input("adapter", options=available_adapters(), tooltip="From ComfyUI's loras folders."),
                io.Float.Input(
                    "model_strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="On the transformer; 0 is off.",
                ),
                io.Float.Input(
                    "vae_strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="On the encoder; 0 is off."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="With the adapter as a patch."),
                io.Vae.Output(tooltip="With the adapter as a patch on its encoder."),
            ],
        )

    @classmethod
    def execute(cls, model, vae, adapter: str, model_strength: float, vae_strength: float) -> io.NodeOutput:
        found = find_adapters(adapter_path(adapter))
        if "transformer" in found:
            part = found["transformer"]
            model = with_adapter(model, transformer_targets(model), part, model_strength)
        if "vae" in found:
            part, vae = found["vae"], copy.copy(vae)
            vae.patcher = with_adapter(vae.patcher, encoder_targets(vae, part), part, vae_strength)
        return io.NodeOutput(model, vae)

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **_: object) -> float:
        """Changes with the files, so that a newly trained adapter is read again."""
        return newest(adapter_path(adapter))


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


def available_unet_adapters() -> list[str]:
    """Files below ComfyUI's `loras` folders that `op4ksr convert` made of OSEDiff or TVT."""
    return sorted(name for name in folder_paths.get_filename_list("loras") if _is_ours(name))


def _is_ours(name: str) -> bool:
    try:
        return is_unet_adapter(adapter_path(name))
    except WeightsError:
        return False


class LoadUNetAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadUNetAdapter",
            "Load OSEDiff or TVT adapter (OP4KSR)",
            ["osediff", "tvt", "stable diffusion 2.1", "one step"],
            description="OSEDiff's or TVT's weights on Stable Diffusion 2.1-base, converted by `op4ksr convert` and "
            "put into models/loras. Then Upscale to 4K with the preset osediff or tvt.",
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 2.1-base (not 2.1, which predicts v)."),
                io.Vae.Input("vae", tooltip="Its VAE; OSEDiff changes the encoder."),
                io.Combo.Input("adapter", options=available_unet_adapters(), tooltip="From ComfyUI's loras folders."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Of the LoRA; layers that are replaced whole are so at any strength above 0.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="With the adapter as patches."),
                io.Vae.Output(tooltip="With the adapter's half, where it has one."),
            ],
        )

    @classmethod
    def execute(cls, model, vae, adapter: str, strength: float) -> io.NodeOutput:
        found = find_unet_adapter(adapter_path(adapter))
        check_base(model, found)
        patched = with_unet_adapter(model, unet_targets(model), "unet", found, strength)
        if "vae" in found.lora:
            vae = copy.copy(vae)
            vae.patcher = with_unet_adapter(vae.patcher, _vae_targets(vae, found), "vae", found, strength)
        return io.NodeOutput(patched, vae)

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **_: object) -> float:
        """Changes with the file."""
        return newest(adapter_path(adapter))


class FeaturesConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "FeaturesConditioning",
            "Picture features as conditioning (OP4KSR)",
            ["f2idiff", "dinov2", "clip vision", "image conditioning"],
            description="A picture's own features in the prompt's place, as F2IDiff-SR has it: connect CLIP Vision "
            "Encode with DINOv2-large and crop none.",
            inputs=[io.ClipVisionOutput.Input("features", tooltip="DINOv2's tokens of the small picture.")],
            outputs=[io.Conditioning.Output(tooltip="A token for each patch of the picture, and one for all of it.")],
        )

    @classmethod
    def execute(cls, features) -> io.NodeOutput:
        return io.NodeOutput([[features.last_hidden_state, {}]])


def _vae_targets(vae: VAE, found: UNetAdapter) -> dict[str, str]:
    """diffusers' modules of the encoder and quant_conv -> this VAE's weights."""
    lora = found.lora["vae"]
    inside = {k.removeprefix("encoder."): v for k, v in lora.state.items() if k.startswith("encoder.")}
    named = encoder_targets(vae, Adapter(lora.origin, lora.config, inside))
    return {f"encoder.{module}": key for module, key in named.items()} | {"quant_conv": "quant_conv.weight"}
