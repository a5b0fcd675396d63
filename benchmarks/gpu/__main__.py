"""python -m benchmarks.gpu QUESTION [--json FILE] [--device cpu --tiny]

Questions: profile, variants, rivals, embedded, training. Without a GPU nothing is measured, unless --device cpu is
given;
--tiny rehearses a question in seconds. `python -m benchmarks.gpu.nodes` is the kit that runs the nodes there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from . import embedded, profiling, rivals, training, variants
from .common import Results

QUESTIONS = {
    "profile": profiling.run,
    "variants": variants.run,
    "rivals": rivals.run,
    "embedded": embedded.run,
    "training": training.run,
}


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Answers one question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--json", type=Path, help="written after each row")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and pictures, to rehearse")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured. --device cpu --tiny rehearses.")
        return
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        print(f"{torch.cuda.get_device_name(device)} has no bfloat16: measured in float16.")
        dtype = torch.float16
    results = Results(arguments.json, device, dtype)
    QUESTIONS[arguments.question](arguments, results, device, dtype)


if __name__ == "__main__":
    main()
