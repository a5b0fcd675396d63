"""Runs inside ComfyUI's Python: Stable Diffusion's families on its MODEL and VAE, tensors in, tensors out.

python unet_probe.py COMFYUI BASE : BASE has the extension as op4ksr, model folders, and an adapter in loras
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

comfyui, base = sys.argv[1:]
sys.path[:0] = [comfyui, base]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import folder_paths  # noqa: E402
import torch  # noqa: E402
from op4ksr.nodes.adapters import FeaturesConditioning, LoadUNetAdapter, available_unet_adapters  # noqa: E402
from op4ksr.nodes.comfy_host import ComfyHost, plan_pictures  # noqa: E402
from op4ksr.nodes.native_models import TRAINED_FOR  # noqa: E402
from op4ksr.nodes.unets import load_sd_folder, unet_config  # noqa: E402
from op4ksr.op4ksr_core.errors import Op4ksrError  # noqa: E402
from op4ksr.op4ksr_core.geometry import Scale  # noqa: E402
from op4ksr.op4ksr_core.pipeline.restoration import run  # noqa: E402
from op4ksr.op4ksr_core.settings import UpscaleSettings  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

base = Path(base)
folder_paths.add_model_folder_path("loras", str(base / "loras"), is_default=True)
given = load_file(base / "in.safetensors")
quiet = {"colour": "none", "fidelity": 0.0, "rope": None, "posterior_seed": 0}


def picture(model, vae, folder, timestep, conditioning=None):
    """The small picture restored in one go."""
    tokens = load_file(base / folder / "prompt.safetensors")["prompt_embeds"]
    host = ComfyHost(model, conditioning or [[tokens, {}]], vae)
    small, settings = given["small"], UpscaleSettings(timestep=timestep, **quiet)
    plan = plan_pictures(host, small, Scale(4), [settings], host.latent_factor)
    return run(host, plan, small, lambda *_: None).rgb


def message(call, *arguments):
    """What an artist would read on the node."""
    try:
        call(*arguments)
    except Op4ksrError as error:
        return str(error)
    return "no error"


with torch.inference_mode():
    model, vae = load_sd_folder(base / "sd")
    found = {"plain": picture(model, vae, "sd", 999)}
    patched = LoadUNetAdapter.execute(model, vae, "osediff.safetensors", 1.0).args
    found["osediff"] = picture(*patched, "sd", 999)
    pickled = LoadUNetAdapter.execute(model, vae, "osediff.pkl", 1.0).args
    found["pickled"] = picture(*pickled, "sd", 999)
    found["plain_again"] = picture(model, vae, "sd", 999)
    found["off"] = picture(*LoadUNetAdapter.execute(model, vae, "osediff.safetensors", 0.0).args, "sd", 999)
    seen = SimpleNamespace(last_hidden_state=given["features"])  # what CLIP Vision Encode gives
    found["f2idiff"] = picture(model, vae, "sd", 999, FeaturesConditioning.execute(seen).args[0])
    found["tvt"] = picture(*load_sd_folder(base / "tvt"), "tvt", 1)
    found["sd1"] = picture(*load_sd_folder(base / "sd1"), "sd1", 999)
    v = load_sd_folder(base / "v")
    found["v"] = picture(*v, "v", 500)
    errors = {
        "listed": available_unet_adapters(),
        "preset": pickled[0].get_attachment(TRAINED_FOR).preset,
        "code": message(LoadUNetAdapter.execute, model, vae, "code.pkl", 1.0),
        "v with an adapter": message(LoadUNetAdapter.execute, *v, "osediff.safetensors", 1.0),
        "another base": message(LoadUNetAdapter.execute, *load_sd_folder(base / "tvt"), "osediff.safetensors", 1.0),
        "no unet": message(unet_config, {"in_channels": 4}),
        "outside": message(LoadUNetAdapter.execute, model, vae, "../osediff.safetensors", 1.0),
        "heavy imports": " ".join(sorted({"diffusers", "peft"} & sys.modules.keys())) or "none",
    }
(base / "out.json").write_text(json.dumps(errors))
save_file({key: value.float().contiguous() for key, value in found.items()}, base / "out.safetensors")
