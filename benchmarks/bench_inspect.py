"""Processor time and memory of the inspector and the suppressor at 512 to 4096 px, beside numpy's plain FFT.

python benchmarks/bench_inspect.py
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from op4ksr_core.geometry import Size
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.lattice.suppress import suppress
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize

SIDES = (512, 1024, 2048, 4096)
"""px."""

PHOTO = Path(__file__).parent.parent / "op4ksr_core" / "assets" / "demo" / "astronaut.png"


def picture(side: int) -> torch.Tensor:
    """The bundled photo at this size with a 16-px lattice of 1/255."""
    wave = torch.sin(2 * torch.pi * torch.arange(side) / 16)
    return (resize(read_picture(PHOTO).rgb, Size(side, side))[0] + wave[:, None] * wave / 255).clamp(0, 1)


def seconds(call, *arguments) -> float:
    """Processor time of all threads, of the faster of two calls: other work on the machine hardly counts."""
    times = []
    for _ in range(2):
        start = time.process_time()
        call(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def peak_gigabytes() -> float:
    """Resident memory at its highest, of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def one(side: int) -> dict[str, float]:
    """Seconds and gigabytes of one size."""
    x = picture(side)
    looked = seconds(inspect, x)
    peak = peak_gigabytes()  # with torch, the picture and its making
    small = resize(x[None], Size(side // 4, side // 4))[0].clamp(0, 1)
    return {
        "alone": looked,
        "with the small picture": seconds(inspect, x, small),
        "suppression": seconds(suppress, x, inspect(x).lattice),
        "numpy's fft2": seconds(np.fft.fft2, x.mean(0).double().numpy()),
        "peak_gb": peak,
    }


def measured(sides: tuple[int, ...] = SIDES) -> dict[str, dict[str, float]]:
    """By side; each is measured in a process of its own, so that its peak is its own."""
    rows = {}
    for side in sides:
        command = [sys.executable, __file__, str(side)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[str(side)] = json.loads(done.stdout.splitlines()[-1])
        print(f"inspector, {side} px: " + ", ".join(f"{k} {v:.2f}" for k, v in rows[str(side)].items()), flush=True)
    return rows


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]))))
    else:
        measured()


if __name__ == "__main__":
    main()
