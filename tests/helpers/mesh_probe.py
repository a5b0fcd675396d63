"""Runs inside ComfyUI's Python: the Upscale node's way with the bundled model, as it is and with a decoder that draws a
crosshatch; reports and maps out.

python mesh_probe.py COMFYUI BASE : BASE has the extension as op4ksr, and in.safetensors with small (1, 3, h, w) and
crosshatch (H, W), of four times the size, in 1/255
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

comfyui, base = sys.argv[1:]
sys.path[:0] = [comfyui, base]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
from op4ksr.nodes.comfy_host import ComfyHost  # noqa: E402
from op4ksr.nodes.native_models import load_embedded  # noqa: E402
from op4ksr.nodes.upscale_nodes import upscaled  # noqa: E402
from op4ksr.op4ksr_core.geometry import Scale  # noqa: E402
from op4ksr.op4ksr_core.settings import PRESETS  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

base = Path(base)
given = load_file(base / "in.safetensors")


@dataclass
class CrosshatchHost(ComfyHost):
    """The model with a fault: its decoder draws the crosshatch over the picture."""

    def decode(self, z, report):
        return super().decode(z, report) + given["crosshatch"] / 255


settings = replace(PRESETS["embedded"], colour="none", fidelity=0.0, compensation=0.0)
maps, reports = {}, {}
with torch.inference_mode():
    parts = load_embedded()
    for name, kind in {"as it is": ComfyHost, "crosshatch": CrosshatchHost}.items():
        host = kind(*parts)
        image = given["small"].movedim(1, -1)
        made = upscaled(host, image, None, None, Scale(4.0), settings, host.latent_factor)
        reports[name], maps[name] = made.args[3], made.args[4].contiguous()
save_file(maps, base / "out.safetensors")
(base / "out.json").write_text(json.dumps(reports))
