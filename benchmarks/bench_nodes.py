"""The VAE's passes inside ComfyUI: its own layers in one pass beside the core's strips, on the same VAE.

    COMFYUI/.venv/bin/python benchmarks/bench_nodes.py COMFYUI [--side 2048] [--rounds 3]

With ComfyUI's Python, on the CPU; seconds of encoding and decoding one picture with the embedded model's VAE.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        (Path(parent) / "op4ksr").symlink_to(ROOT)
        sys.path[:0] = [str(arguments.comfyui), parent]
        sys.argv = [sys.argv[0], "--cpu"]
        measure(arguments.side, arguments.rounds)


def measure(side: int, rounds: int) -> None:
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch
    from op4ksr.nodes import memory
    from op4ksr.nodes.native_models import load_embedded
    from op4ksr.nodes.vae_passes import decode_whole, encode_whole

    with torch.inference_mode():
        _, _, vae = load_embedded()
        x, z = torch.rand(1, 3, side, side), torch.randn(1, vae.latent_channels, side // 16, side // 16)
        print(f"torch {torch.__version__}, {side} px\n\n| pass | encode s | decode s |\n|---|---|---|")
        for _ in range(rounds):
            for how in ("whole", "strips", "frugal"):
                memory.passes_of = lambda device, how=how: (how,)
                marks = [time.perf_counter()]
                for call in (lambda: encode_whole(vae, x), lambda: decode_whole(vae, z)):
                    call()
                    marks.append(time.perf_counter())
                print(f"| {how} | {marks[1] - marks[0]:.2f} | {marks[2] - marks[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
