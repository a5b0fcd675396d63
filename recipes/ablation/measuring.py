"""What is measured of a fine-tune, at the trained size and at four times its tokens a side."""

import json
import math
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from op4ksr_core.evaluate.measures import gmsd, psnr_of_colour
from op4ksr_core.evaluate.niqe import niqe
from op4ksr_core.lattice.autocorrelation import highpass
from op4ksr_core.model.windows import in_windows

from .training import ARMS, TUNE_STEPS, fine_tune, trained
from .world import BLOCK, LARGE, TOKEN, TRAINED, Model, decode, encode, enlarged, pictures

SIZES = {"trained": (TRAINED, 16), "4x": (LARGE, 4)}
"""Name -> (px of a side, pictures)."""

HELD_OUT = 9_000_000
"""Seed of the pictures to judge with; the trainings' seeds stay below."""

METRICS = ("lattice_db", "psnr", "psnr_windows", "gmsd", "niqe", "texture")


def lattice_db(x: Tensor, period: int = TOKEN) -> float:
    """Power of the high band at the harmonics of a `period`-px lattice over that of the frequencies around them, dB.

    x: (B, 1, H, W), sides multiples of `period`. About 0 for a picture without a lattice.
    """
    height, width = x.shape[-2:]
    power = torch.fft.fft2(highpass(x)).abs().square().mean((0, 1))
    step_down, step_across = height // period, width // period
    lattice, around = [], []
    for down in range(0, height, step_down):
        for across in range(0, width, step_across):
            if down == across == 0:
                continue
            lattice.append(power[down, across])
            near = [(i, j) for i in (-3, -2, 2, 3) for j in (-3, -2, 2, 3)]
            around.append(torch.stack([power[(down + i) % height, (across + j) % width] for i, j in near]).mean())
    return float(10 * torch.log10(torch.stack(lattice).mean() / torch.stack(around).mean()))


def naturalness(x: Tensor) -> float:
    """NIQE; of small pictures, of a mosaic of their 96-px middles, each of which is one of its blocks."""
    if x.shape[-1] < 288:
        edge, side = (x.shape[-1] - 96) // 2, math.isqrt(len(x))
        middles = x[: side * side, :, edge : edge + 96, edge : edge + 96]
        x = rearrange(middles, "(i j) c h w -> 1 c (i h) (j w)", i=side)
    values = [niqe(picture.expand(-1, 3, -1, -1).clamp(0, 1)) for picture in x.split(1)]
    return sum(values) / len(values)


def restored(model: Model, size: str) -> tuple[Tensor, Tensor, Tensor]:
    """(enlarged, restored, true) held-out pictures of one of SIZES."""
    side, count = SIZES[size]
    truth = pictures(count, side, HELD_OUT)
    blurred = enlarged(truth, HELD_OUT)
    with torch.no_grad():
        made = torch.cat([model.restore(part) for part in blurred.split(2)])
    return blurred, made, truth


def in_trained_windows(model: Model, blurred: Tensor) -> Tensor:
    """The same in windows of the trained 16 tokens, each half over the next: what it would be without positions that
    the training never met."""
    side = TRAINED // BLOCK
    with torch.no_grad():
        return torch.cat([decode(in_windows(encode(part), side, model.step)) for part in blurred.split(1)])


def measured(made: Tensor, truth: Tensor) -> dict[str, float]:
    """By METRICS. texture: the high band's energy over the truth's, 1 is right."""
    pairs = zip(made.split(1), truth.split(1), strict=True)
    distances = [gmsd(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)) for a, b in pairs]
    return {
        "lattice_db": lattice_db(made),
        "psnr": psnr_of_colour(made, truth),
        "gmsd": sum(distances) / len(distances),
        "niqe": naturalness(made),
        "texture": float(highpass(made).square().mean() / highpass(truth).square().mean()),
    }


def train_and_judge(run: Path, name: str, seed: int, steps: int = TUNE_STEPS) -> None:
    """Trains and judges one arm with one seed, each once."""
    torch.set_num_threads(1)
    weights, figures = run / f"{name}-{seed}.pt", run / f"{name}-{seed}.json"
    if not weights.exists():
        fine_tune(ARMS[name], seed, run / "prior.pt", weights, steps)
    if figures.exists():
        return
    model, found = trained(ARMS[name], weights), {}
    for size in SIZES:
        blurred, made, truth = restored(model, size)
        found[size] = measured(made, truth)
        found[size]["psnr_windows"] = psnr_of_colour(in_trained_windows(model, blurred), truth)
    figures.write_text(json.dumps(found, indent=1) + "\n")
    print(name, seed, found, flush=True)
