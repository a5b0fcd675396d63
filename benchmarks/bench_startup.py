"""How long a user waits: imports, the model, the first picture and the second, each run in a process of its own.

    python benchmarks/bench_startup.py [--side 256] [--repeats 3]

Prints medians in seconds, and what the command line takes for its own help. The import of diffusers, which our
models need, is part of what "import" shows.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

CHILD = """
import json, sys, time
marks = [time.perf_counter()]
mark = lambda: marks.append(time.perf_counter())
from op4ksr_core.pipeline.upscaler import Upscaler; mark()
import torch
upscaler = Upscaler.from_embedded(device="cpu"); mark()
lr = torch.rand(1, 3, {side}, {side})
upscaler(lr); mark()
upscaler(lr); mark()
print(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""
NAMES = ("import", "make an upscaler", "first picture, models loaded in it", "second picture")


def measured(side: int = 256, repeats: int = 3) -> dict[str, float]:
    """Median seconds of each step."""
    runs, helps = [], []
    for _ in range(repeats):
        code = CHILD.format(side=side)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "op4ksr_core", "--help"], capture_output=True, check=True)
        helps.append(time.perf_counter() - started)
    seconds = dict(zip(NAMES, map(statistics.median, zip(*runs, strict=True)), strict=True))
    return seconds | {"op4ksr --help": statistics.median(helps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="input px; the output is x4")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{arguments.side} -> {4 * arguments.side} px")
    for name, seconds in measured(arguments.side, arguments.repeats).items():
        print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
