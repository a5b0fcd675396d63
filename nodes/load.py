"""Nodes that make and change models."""

from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.rope import SCHEMES, RopeSettings
from ..op4ksr_core.vae import HEADS
from .models import load_embedded, load_folder, to_f16, with_rope

CATEGORY = "OP4KSR"
SAMPLE = Path(__file__).parent.parent / "op4ksr_core" / "assets" / "demo" / "astronaut.png"

ROPE_PRESETS = {
    "OP4KSR": RopeSettings(theta=100.0),
    "UltraFlux": RopeSettings(theta=10_000.0, scheme="resonance-yarn"),
    "FLUX": RopeSettings(theta=10_000.0),
}


class LoadEmbedded(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_LoadEmbedded",
            display_name="Load embedded model (OP4KSR)",
            category=CATEGORY,
            description="The small OP4KSR model that comes with this extension. Needs no download.",
            outputs=[io.Model.Output(), io.Vae.Output(), io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_embedded())


def diffusers_folders() -> dict[str, Path]:
    """Folders below ComfyUI's `diffusers` paths that hold a transformer and a VAE, by their name there."""
    found = {}
    for root in folder_paths.get_folder_paths("diffusers"):
        for transformer in sorted(Path(root).glob("**/transformer")):
            if (transformer.parent / "vae").is_dir():
                found.setdefault(str(transformer.parent.relative_to(root)), transformer.parent)
    return found


class LoadDiffusersFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_LoadDiffusers",
            display_name="Load diffusers folder (OP4KSR)",
            category=CATEGORY,
            description="UltraFlux, or another FLUX model as diffusers publishes it, from models/diffusers: "
            "a folder with transformer (sharded or not) and vae.",
            inputs=[io.Combo.Input("folder", options=list(diffusers_folders()))],
            outputs=[io.Model.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        folders = diffusers_folders()
        if folder not in folders:
            raise WeightsError(f"There is no diffusers folder {folder}; there are {', '.join(folders) or 'none'}.")
        return io.NodeOutput(*load_folder(folders[folder]))


class SamplePhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_SamplePhoto",
            display_name="Sample photo (OP4KSR)",
            category=CATEGORY,
            description="A public-domain NASA portrait, 512x512, to try the other nodes on.",
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        array = np.asarray(Image.open(SAMPLE).convert("RGB"))
        return io.NodeOutput(torch.from_numpy(array.astype(np.float32) / 255)[None])


class RopeTheta(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_RopeTheta",
            display_name="RoPE theta (OP4KSR)",
            category=CATEGORY,
            description="Sets the base of a FLUX model's position embedding. The MODEL that comes in stays as it is.",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "preset",
                    options=["custom", *ROPE_PRESETS],
                    default="OP4KSR",
                    tooltip="OP4KSR: plain, theta 100. UltraFlux: its own embedding. FLUX: plain, 10000. "
                    "custom: the two inputs below.",
                ),
                io.Float.Input(
                    "theta", default=100.0, min=1.01, max=1_000_000.0, step=1.0, tooltip="RoPE base, used by custom."
                ),
                io.Combo.Input("scheme", options=list(SCHEMES), default="plain", tooltip="Used by custom."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, preset: str, theta: float, scheme: str) -> io.NodeOutput:
        return io.NodeOutput(with_rope(model, ROPE_PRESETS.get(preset) or RopeSettings(theta, scheme)))


class ToF16(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_F16VAE",
            display_name="F16 VAE (OP4KSR)",
            category=CATEGORY,
            description="Runs a FLUX-shaped VAE at 16x; its weights must be made for that (UltraFlux, OP4KSR).",
            inputs=[
                io.Vae.Input("vae"),
                io.Combo.Input(
                    "head",
                    options=list(HEADS),
                    default="centered",
                    tooltip="partitioned is UltraFlux's published decode: one pixel down and right.",
                ),
            ],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae, head: str) -> io.NodeOutput:
        return io.NodeOutput(to_f16(vae, head))
