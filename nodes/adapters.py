"""The nodes that load OP4KSR, OMGSR, OSEDiff and TVT adapters."""

import copy
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.files import at_home
from ..op4ksr_core.weights.adapters import ADAPTER_FOLDERS, find_adapters
from ..op4ksr_core.weights.files import listing
from ..op4ksr_core.weights.unet_adapters import find_unet_adapter, is_unet_adapter
from .adapter_patches import (
    check_base,
    encoder_targets,
    transformer_targets,
    unet_vae_targets,
    with_adapter,
    with_unet_adapter,
)
from .load import newest
from .native_models import attach_trained_for
from .schema import node_schema
from .unets import unet_targets


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
            attach_trained_for(model, adapter_path(adapter))
        if "vae" in found:
            part, vae = found["vae"], copy.copy(vae)
            vae.patcher = with_adapter(vae.patcher, encoder_targets(vae, part), part, vae_strength)
        return io.NodeOutput(model, vae)

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **_: object) -> float:
        """Changes with the files, so that a newly trained adapter is read again."""
        return newest(adapter_path(adapter))


def available_unet_adapters() -> list[str]:
    """Files below ComfyUI's `loras` folders that are OSEDiff's or TVT's by their header, and pickles, which may be."""
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
            description="OSEDiff's or TVT's weights on Stable Diffusion 2.1-base: osediff.pkl or model_TVT.pkl, put "
            "into models/loras. Then Upscale to 4K with the preset osediff or tvt.",
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
                    tooltip="Of the LoRA; layers that the file replaces whole are replaced at any strength above 0.",
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
        attach_trained_for(patched, adapter_path(adapter))
        if "vae" in found.lora:
            vae = copy.copy(vae)
            vae.patcher = with_unet_adapter(vae.patcher, unet_vae_targets(vae, found), "vae", found, strength)
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
