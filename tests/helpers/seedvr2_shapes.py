"""Runs inside ComfyUI's Python (0.33 or later): the shapes of SeedVR2 3B's tensors and of its VAE's, as JSON.

python seedvr2_shapes.py COMFYUI OUTPUT
"""

import json
import sys
from pathlib import Path

comfyui, output = sys.argv[1:]
sys.path.insert(0, comfyui)
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.seedvr.model import NaDiT  # noqa: E402
from comfy.ldm.seedvr.vae import VideoAutoencoderKLWrapper  # noqa: E402

with torch.device("meta"):
    parts = {
        "dit": NaDiT(1e-5, 32, "swiglu", vid_out_norm=True, device="meta", operations=comfy.ops.disable_weight_init),
        "vae": VideoAutoencoderKLWrapper(),
    }
found = {name: {key: list(value.shape) for key, value in part.state_dict().items()} for name, part in parts.items()}
Path(output).write_text(json.dumps(found))
