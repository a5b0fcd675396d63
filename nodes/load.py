"""Nodes that make and change models."""

import json
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.paths import DEMO_PHOTO
from ..op4ksr_core.settings import HEADS, SCHEMES, RopeSettings, Scheme
from .f16 import round_trip, to_f16
from .memory import tell
from .native_models import load_embedded, load_folder
from .rope_patch import with_rope
from .schema import node_schema
from .unets import load_sd_folder

ROPE_PRESETS = {
    "OP4KSR": RopeSettings(theta=100.0),
    "UltraFlux": RopeSettings(theta=10_000.0, scheme="resonance-yarn"),
    "FLUX": RopeSettings(theta=10_000.0),
}


class LoadEmbedded(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadEmbedded",
            "Load embedded model (OP4KSR)",
            ["load model", "small model", "no download"],
            description="The small OP4KSR model that comes with this extension. Needs no download.",
            outputs=[
                io.Model.Output(tooltip="A FLUX transformer, theta 100."),
                io.Conditioning.Output(tooltip="The fixed prompt that it was trained with."),
                io.Vae.Output(tooltip="An F16 VAE."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_embedded())


def diffusers_folders() -> dict[str, Path]:
    """Folders below ComfyUI's `diffusers` paths that hold a transformer, with a VAE beside it or without, by name.

    A lone transformer (UltraFlux-v1.1 as published) may also lie in the named folder itself.
    """
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        places = [p.parent for kind in ("transformer", "unet") for p in root.glob(f"**/{kind}") if p.is_dir()]
        places += [path.parent for path in root.glob("*/config.json") if is_lone_transformer(path.parent)]
        for folder in sorted(places):
            found.setdefault(str(folder.relative_to(root)), folder)
    return found


def is_lone_transformer(folder: Path) -> bool:
    """Whether diffusers saved a FLUX transformer into this very folder."""
    try:
        return json.loads((folder / "config.json").read_text()).get("_class_name") == "FluxTransformer2DModel"
    except (OSError, ValueError, AttributeError):
        return False


def newest(path: Path) -> float:
    """When the file, or the newest file below the folder, was last written; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


class LoadDiffusersFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadDiffusers",
            "Load diffusers folder (OP4KSR)",
            ["ultraflux", "diffusers loader", "sharded", "load model"],
            description="UltraFlux, or another FLUX model as diffusers publishes it, from models/diffusers: "
            "a folder with transformer (sharded or not) and vae, or a lone transformer and a VAE of your choice.",
            inputs=[
                io.Combo.Input("folder", options=list(diffusers_folders()), tooltip="Below models/diffusers."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="For a folder without one, such as UltraFlux-v1.1: UltraFlux-v1's, at 16x (F16 VAE node).",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The transformer."),
                io.Vae.Output(tooltip="The VAE; F16 where its config.json says stride 2."),
            ],
        )

    @classmethod
    def execute(cls, folder: str, vae=None) -> io.NodeOutput:
        folders = diffusers_folders()
        if folder not in folders:
            raise WeightsError(f"There is no diffusers folder {folder}; there are {', '.join(folders) or 'none'}.")
        if (folders[folder] / "unet").is_dir():
            return io.NodeOutput(*load_sd_folder(folders[folder], vae))
        return io.NodeOutput(*load_folder(folders[folder], vae))

    @classmethod
    def fingerprint_inputs(cls, folder: str, vae=None) -> float:
        """Changes with the files, so that exchanged weights are read again."""
        return newest(diffusers_folders().get(folder, Path(folder)))


class SamplePhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "SamplePhoto",
            "Sample photo (OP4KSR)",
            ["test image", "example picture", "demo"],
            description="A CC0 photograph of the Colosseum, 1024x576, to try the other nodes on.",
            outputs=[io.Image.Output(tooltip="1024x576.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        array = np.asarray(Image.open(DEMO_PHOTO).convert("RGB"))
        return io.NodeOutput(torch.from_numpy(array.astype(np.float32) / 255)[None])


class RopeTheta(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "RopeTheta",
            "RoPE theta (OP4KSR)",
            ["rope", "position embedding", "yarn", "ntk", "rescaling"],
            description="Sets the base of a FLUX model's position embedding. The MODEL that comes in stays as it is.",
            inputs=[
                io.Model.Input("model", tooltip="A FLUX model, with whatever patches it has."),
                io.Combo.Input(
                    "preset",
                    options=["custom", *ROPE_PRESETS],
                    default="OP4KSR",
                    tooltip="OP4KSR: plain, theta 100. UltraFlux: its own embedding. FLUX: plain, 10000. "
                    "custom: the two inputs below.",
                ),
                io.Float.Input(
                    "theta", default=100.0, min=1.01, max=1_000_000.0, step=1.0, tooltip="RoPE base. Used by custom."
                ),
                io.Combo.Input(
                    "scheme",
                    options=list(SCHEMES),
                    default="plain",
                    tooltip="How positions beyond the trained ones are placed. Used by custom.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="A clone with the new positions.")],
        )

    @classmethod
    def execute(cls, model, preset: str, theta: float, scheme: Scheme) -> io.NodeOutput:
        return io.NodeOutput(with_rope(model, ROPE_PRESETS.get(preset) or RopeSettings(theta, scheme)))


TEST_SIDE = 256
"""px of the picture that a bare VAE is tried on."""


def round_trip_error(vae) -> float:
    """Mean error of a smooth colour gradient that is encoded and decoded, in [0, 1]."""
    ramp = torch.linspace(0.1, 0.9, TEST_SIDE)
    down, across = torch.meshgrid(ramp, ramp, indexing="ij")
    picture = torch.stack([across, down, 1 - across])[None]
    return float((round_trip(vae, picture) - picture).abs().mean())


def doubted(at_8: float, at_16: float) -> str:
    """What is to be said of a VAE that gives a test picture back much better at 8x than at 16x; empty otherwise.

    An F8 and an F16 VAE have the same tensors: a bare file cannot say which it is.
    """
    if at_16 <= max(2 * at_8, 2 / 255):
        return ""
    return (
        f"F16 VAE: a test gradient comes back with an error of {255 * at_16:.1f}/255 at 16x and {255 * at_8:.1f}/255 "
        "at 8x, so this looks like an 8x VAE (FLUX.1's own). For 16x use UltraFlux's or OP4KSR's; for OMGSR leave this "
        "node out"
    )


class ToF16(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "F16VAE",
            "F16 VAE (OP4KSR)",
            ["vae", "16x", "stride 2", "ultraflux vae"],
            description="Runs a FLUX-shaped VAE at 16x; its weights must be made for that (UltraFlux, OP4KSR).",
            inputs=[
                io.Vae.Input("vae", tooltip="A FLUX-shaped VAE that runs at 8x; it stays as it is."),
                io.Combo.Input(
                    "head",
                    options=list(HEADS),
                    default="auto",
                    tooltip="auto measures which of the two puts the pixels where they belong, and says so. "
                    "partitioned is UltraFlux's published decode; it lies one pixel down and right of centered.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="For F16 Encode and Decode, and for stock VAE Encode and Decode.")],
        )

    @classmethod
    def execute(cls, vae, head: str) -> io.NodeOutput:
        made = to_f16(vae, head)
        doubt = doubted(round_trip_error(vae), round_trip_error(made))
        if doubt:
            tell(doubt)
        return io.NodeOutput(made)
