"""The VAE's passes inside ComfyUI: its own layers in one pass beside the core's strips, on the same VAE.

    PYTHONPATH=. COMFYUI/.venv/bin/python benchmarks/bench_nodes.py COMFYUI [--json docs/results/comfyui_passes.json]
        [--side 2048] [--rounds 3]

With ComfyUI's Python, on the CPU; seconds of encoding and decoding one picture with the embedded model's VAE.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.provenance import write_report

ROOT = Path(__file__).resolve().parent.parent
PASSES = ("whole", "strips", "frugal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        (Path(parent) / "op4ksr").symlink_to(ROOT)
        sys.path[:0] = [str(arguments.comfyui), parent]
        command, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
        rows, threads = measure(arguments.side, arguments.rounds)
        sys.argv = command
    if arguments.json:
        write_report(arguments.json, {"px": arguments.side, "threads": threads, "rows": rows})


def measure(side: int, rounds: int) -> tuple[dict[str, dict[str, list[float]]], int]:
    """Seconds of each round, by pass and phase; and the number of threads."""
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
        rows: dict[str, dict[str, list[float]]] = {how: {"encode": [], "decode": []} for how in PASSES}
        for _ in range(rounds):
            for how in PASSES:
                memory.passes_of = lambda device, how=how: (how,)
                marks = [time.perf_counter()]
                for call in (lambda: encode_whole(vae, x), lambda: decode_whole(vae, z)):
                    call()
                    marks.append(time.perf_counter())
                rows[how]["encode"].append(round(marks[1] - marks[0], 2))
                rows[how]["decode"].append(round(marks[2] - marks[1], 2))
                print(f"| {how} | {rows[how]['encode'][-1]} | {rows[how]['decode'][-1]} |", flush=True)
    return rows, torch.get_num_threads()


if __name__ == "__main__":
    main()
