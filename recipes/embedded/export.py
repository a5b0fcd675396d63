"""The trained stages as the files that the package reads."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from op4ksr_core.paths import COMPENSATION, EMBEDDED

from .fp16_range import fit_fp16
from .loop import read, write
from .networks import DIT_CONFIG, VAE_CONFIG, Restorer, new_vae
from .pictures import Pictures
from .transformer import trained


def export_model(run: Path, photos: Sequence[Path], to: Path) -> None:
    """`transformer`, `vae` and `prompt.safetensors` of a diffusers folder, in float16."""
    frozen, restorer = trained(run, torch.device("cpu"))
    vae = frozen.vae
    with torch.no_grad():
        fit_fp16(vae, Pictures.load(photos, held_out=True).batch(random.Random(1), 4, 512))
    statistics = {"shift_factor": vae.config.shift_factor, "scaling_factor": vae.config.scaling_factor}
    _write(
        to / "vae",
        {"_class_name": "AutoencoderKL"} | VAE_CONFIG | statistics | {"stride": 2, "head": "centered"},
        vae.state_dict(),
    )
    _write(to / "transformer", {"_class_name": "FluxTransformer2DModel"} | DIT_CONFIG, restorer.dit.state_dict())
    prompt = {"prompt_embeds": restorer.prompt.data.clone(), "pooled_prompt_embeds": restorer.pooled.data.clone()}
    save_file(prompt, to / "prompt.safetensors")


def unpack(run: Path, keep_encoder: bool) -> None:
    """The bundled model as the weights that the stages begin with; with its encoder kept, as what they have made."""
    vae, restorer, latents = new_vae(), Restorer(), json.loads((EMBEDDED / "vae" / "config.json").read_text())
    for module, folder in ((vae, "vae"), (restorer.dit, "transformer")):
        state = load_file(EMBEDDED / folder / "diffusion_pytorch_model.safetensors")
        module.load_state_dict({key: value.float() for key, value in state.items()})
    prompt = load_file(EMBEDDED / "prompt.safetensors")
    restorer.prompt.data, restorer.pooled.data = (prompt[k].float() for k in ("prompt_embeds", "pooled_prompt_embeds"))
    run.mkdir(parents=True, exist_ok=True)
    write(run / "vae_start.pt", vae.state_dict())
    write(run / "transformer_start.pt", restorer.state_dict())
    detail = load_file(COMPENSATION)
    write(run / "detail_start.pt", {key: value.float() for key, value in detail.items()})
    if keep_encoder:
        write(run / "vae_best.pt", vae.state_dict())
        write(run / "latents.pt", {"shift": latents["shift_factor"], "scale": latents["scaling_factor"]})
        together = torch.nn.ModuleDict({"restorer": restorer, "decoder": vae.decoder})
        write(run / "together_best.pt", together.state_dict())


def _write(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half().contiguous() for key, value in state.items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def export_detail(start: Path, to: Path) -> None:
    """A detail network in float16."""
    state = read(start)
    save_file({key: value.half().contiguous() for key, value in state.items()}, to, metadata={"format": "pt"})
