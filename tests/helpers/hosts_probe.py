"""Runs inside ComfyUI's Python: pictures through the nodes' way, for every case of cases.json, tensors in, tensors out.

python hosts_probe.py COMFYUI BASE : BASE has the extension as op4ksr, model folders, and an adapter in loras
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

comfyui, base = sys.argv[1:]
sys.path[:0] = [comfyui, base]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import folder_paths  # noqa: E402
import torch  # noqa: E402
from op4ksr.nodes.adapters import FeaturesConditioning, LoadUNetAdapter  # noqa: E402
from op4ksr.nodes.comfy_host import ComfyHost  # noqa: E402
from op4ksr.nodes.native_models import load_folder  # noqa: E402
from op4ksr.nodes.unets import load_sd_folder  # noqa: E402
from op4ksr.nodes.upscale_nodes import upscaled  # noqa: E402
from op4ksr.op4ksr_core.geometry import Scale  # noqa: E402
from op4ksr.op4ksr_core.settings import PRESETS  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

base = Path(base)
folder_paths.add_model_folder_path("loras", str(base / "loras"), is_default=True)
given = load_file(base / "in.safetensors")


def prompt_of(folder):
    tokens = load_file(folder / "prompt.safetensors")
    return [[tokens["prompt_embeds"], {"pooled_output": tokens.get("pooled_prompt_embeds")}]]


def host_of(family):
    """The family's models as ComfyUI has them, with their fixed prompt."""
    folder = base / family
    if (folder / "transformer").is_dir():
        model, vae = load_folder(folder)
    else:
        model, vae = load_sd_folder(folder)
    if family == "osediff":
        model, vae = LoadUNetAdapter.execute(model, vae, "osediff.safetensors", 1.0).args
    return ComfyHost(model, prompt_of(folder), vae)


found, hosts = {}, {}
with torch.inference_mode():
    for case in json.loads((base / "cases.json").read_text()):
        family, size = case["family"], case["size"]
        host = hosts[family] = hosts.get(family) or host_of(family)
        if family == "f2idiff":
            seen = SimpleNamespace(last_hidden_state=given[f"features {size}"])  # what CLIP Vision Encode gives
            host = replace(host, conditioning=FeaturesConditioning.execute(seen).args[0])
        settings = replace(PRESETS[case["preset"]], posterior_seed=case["posterior_seed"])
        image = given[size].movedim(1, -1)
        made = upscaled(host, image, None, None, Scale(4.0), settings, host.latent_factor, inspected=False)
        found[case["name"]] = made.args[0].movedim(-1, 1).contiguous()
save_file(found, base / "out.safetensors")
