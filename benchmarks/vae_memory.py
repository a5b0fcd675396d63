"""Resident memory that one F16 pass of a full-width FLUX VAE takes in ComfyUI, beside what the nodes plan for it.

COMFYUI_DIR/.venv/bin/python benchmarks/vae_memory.py COMFYUI_DIR SIDE encode|decode

Random weights, float32, CPU, Linux.
"""

import sys
import tempfile
from pathlib import Path

comfyui, side, half = sys.argv[1], int(sys.argv[2]), sys.argv[3]
home = tempfile.TemporaryDirectory()  # where this repository is a package, whatever its folder is called
(Path(home.name) / "op4ksr").symlink_to(Path(__file__).resolve().parent.parent)
sys.path[:0] = [comfyui, home.name]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder  # noqa: E402
from op4ksr.nodes import f16, memory, vae_passes  # noqa: E402

SHAPE = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
SHAPE |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1e6


def main() -> None:
    halves = {"encoder": Encoder(**SHAPE), "decoder": Decoder(**SHAPE)}
    state = {f"{name}.{key}": value for name, part in halves.items() for key, value in part.state_dict().items()}
    vae = f16.to_f16(comfy.sd.VAE(sd=state, dtype=torch.float32), "centered")
    x = torch.rand(1, 3, side, side) if half == "encode" else torch.randn(1, 16, side // 16, side // 16)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    with torch.inference_mode():
        (vae_passes.encode_whole if half == "encode" else vae_passes.decode_whole)(vae, x)
    planned = memory.vae_phase(vae, side * side, half == "decode")[0] / 1e9
    print(f"{half} {side} px: rise {resident('VmHWM') - before:.2f} GB, planned {planned:.2f} GB")


if __name__ == "__main__":
    main()
