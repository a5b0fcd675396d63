"""The embedded model against resampling on pairs of real photos: five metrics, the lattice, the time.

    python benchmarks/bench_realsr.py [--pairs FOLDER] [--model FOLDER] [--fidelity 1 0.9 ...] [--compensation 0 1]

FOLDER holds lr/ and hr/ of equal order; the default is the shared RealSR pairs. Prints a Markdown
table and writes it as JSON with --json.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from metrics import NAMES, all_metrics, lattice_decibels, wins
from PIL import Image
from torch import Tensor

from op4ksr_core.evaluate.metrics import METRICS
from op4ksr_core.geometry import LongSide, Size
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.colour import back_project
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS

PAIRS = Path(__file__).parent.parent.parent / "shared" / "data" / "realsr"


def pillow(kind: Image.Resampling) -> Callable[[Tensor, Size], Tensor]:
    def enlarge(lr: Tensor, size: Size) -> Tensor:
        planes = [Image.fromarray(p.numpy()).resize((size.width, size.height), kind) for p in lr[0]]
        return torch.from_numpy(np.stack([np.asarray(p) for p in planes]))[None]

    return enlarge


def projected(lr: Tensor, size: Size) -> Tensor:
    """Bicubic and back-projection, no model: what fidelity 1 gives by itself."""
    return back_project(resize(lr, size), lr, 1.0)


def methods(
    model: Path, fidelities: list[float], compensations: list[float]
) -> dict[str, Callable[[Tensor, Size], Tensor]]:
    upscaler = Upscaler.from_pretrained(model, settings=PRESETS["embedded"])

    def restored(fidelity: float, compensation: float) -> Callable[[Tensor, Size], Tensor]:
        settings = replace(PRESETS["embedded"], fidelity=fidelity, compensation=compensation)
        return lambda lr, size: upscaler(lr, LongSide(max(size.height, size.width)), settings)

    rows = {
        "bicubic (Pillow)": pillow(Image.Resampling.BICUBIC),
        "Lanczos (Pillow)": pillow(Image.Resampling.LANCZOS),
        "back-projection, no model": projected,
    }
    return rows | {
        f"OP4KSR embedded, fidelity {f:g}" + (f", compensation {c:g}" if c else ""): restored(f, c)
        for f in fidelities
        for c in compensations
    }


def measure(method: Callable[[Tensor, Size], Tensor], pairs: list[tuple[Path, Path]]) -> dict[str, float]:
    totals: dict[str, list[float]] = {}
    for lr_path, hr_path in pairs:
        lr, hr = read_picture(lr_path).rgb, read_picture(hr_path).rgb
        started = time.perf_counter()
        picture = method(lr, Size(*hr.shape[-2:]))
        seconds = time.perf_counter() - started
        values = all_metrics(picture, hr) | {"lattice_db": lattice_decibels(picture), "seconds": seconds}
        for name, value in values.items():
            totals.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--fidelity", type=float, nargs="+", default=[PRESETS["embedded"].fidelity])
    parser.add_argument("--compensation", type=float, nargs="+", default=[0.0, PRESETS["embedded"].compensation])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pairs = list(zip(*(sorted((arguments.pairs / side).glob("*")) for side in ("lr", "hr")), strict=True))
    if not pairs:
        raise SystemExit(f"No pairs in {arguments.pairs}: give a folder with lr/ and hr/ by --pairs.")
    made = methods(arguments.model, arguments.fidelity, arguments.compensation)
    table = {name: measure(method, pairs) for name, method in made.items()}
    truth = {"lattice_db": float(np.mean([lattice_decibels(read_picture(hr).rgb) for _, hr in pairs]))}
    heads = ["method", *(METRICS[name].heading for name in NAMES), "32-px lattice dB", "s"]
    print(f"{len(pairs)} pairs\n\n| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    for name, row in table.items():
        figures = " | ".join(f"{row[m]:.4f}" for m in NAMES)
        print(f"| {name} | {figures} | {row['lattice_db']:.2f} | {row['seconds']:.2f} |")
    print(f"| ground truth |{' |' * len(NAMES)} {truth['lattice_db']:.2f} | |")
    for rival in ("bicubic (Pillow)", "Lanczos (Pillow)", "back-projection, no model"):
        for name in list(table)[3:]:
            better = wins(table[name], table[rival])
            print(f"{name} beats {rival} in {len(better)} of {len(NAMES)} metrics: {', '.join(better)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(table | {"ground truth": truth}, indent=2) + "\n")


if __name__ == "__main__":
    main()
