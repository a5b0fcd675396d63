"""Which loss pulls a lattice out of a picture, and how hard: the slope of each along a 32-px lattice.

    PYTHONPATH=. python benchmarks/lattice_slopes.py PICTURES [--side 384] [--rms 0.25 1 4]
        [--json docs/results/lattice_slopes.json]

`woven` is a smooth wave in both directions; `cells` repeats one random cell of 32x32 px, as tokens that are unpacked
alike leave it.

A lattice of a given RMS is laid over the middle crop of each picture: once over the picture itself, once over its
bicubic enlargement from a quarter of its side, which is as smooth as a regression leaves it. Prints the mean slope of
each term of the ablation, with its weight, per 1/255 of RMS: above 0 the term pulls the lattice out, below 0 it feeds
it.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.provenance import write_report
from op4ksr_core.geometry import Size
from op4ksr_core.lattice.autocorrelation import autocorrelation_loss
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.train.losses.wavelet import wavelet_loss

Loss = Callable[[Tensor, Tensor], Tensor]
TERMS: dict[str, Loss] = {
    "10 MSE": lambda x, y: 10 * F.mse_loss(x, y),
    "L1": F.l1_loss,
    "0.25 wavelet": lambda x, y: 0.25 * wavelet_loss(x, y),
    "1000 L_AP": lambda x, y: 1000 * autocorrelation_loss(x, y),
    "L_AP / variance": lambda x, y: autocorrelation_loss(x, y, normalise="variance"),
    "L_AP, box / variance": lambda x, y: autocorrelation_loss(x, y, normalise="variance", highpassed="box"),
    "L_AP, binomial / variance": lambda x, y: autocorrelation_loss(x, y, normalise="variance", highpassed="binomial"),
}

KINDS = ("woven", "cells")


def lattice(side: int, kind: str = "woven", period: int = 32) -> Tensor:
    """A pattern of RMS 1, (1, 1, side, side); side is a multiple of the period."""
    if kind == "cells":
        cell = torch.randn(period, period, generator=torch.Generator().manual_seed(0))
        pattern = (cell - cell.mean()).repeat(side // period, side // period)
    else:
        wave = torch.cos(2 * math.pi * torch.arange(side) / period)
        pattern = wave[:, None] * wave + wave[:, None] + wave
    return (pattern / pattern.std())[None, None]


def slope(loss: Loss, picture: Tensor, truth: Tensor, pattern: Tensor, rms: float) -> float:
    """d loss / d RMS at `rms`, both in 1/255."""
    amplitude = torch.tensor(rms / 255, requires_grad=True)
    loss(picture + amplitude * pattern, truth).backward()
    assert amplitude.grad is not None
    return float(amplitude.grad) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--rms", type=float, nargs="+", default=[1.0], help="of the lattice, in 1/255 (default 1)")
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    side = arguments.side
    truths = []
    for path in sorted(arguments.pictures.iterdir()):
        whole = read_picture(path).rgb
        top, left = ((length - side) // 2 for length in whole.shape[-2:])
        truths.append(whole[..., top : top + side, left : left + side])
    smooth = [resize(resize(x, Size(side // 4, side // 4)), Size(side, side)) for x in truths]
    print(f"{len(truths)} crops of {side} px; slope per 1/255, times 1e6")
    rows = []
    for kind in KINDS:
        for base, pictures in (("truth", truths), ("enlargement", smooth)):
            print(f"\n| {kind} over the {base}, RMS | {' | '.join(TERMS)} |\n" + "|---" * (len(TERMS) + 1) + "|")
            for rms in arguments.rms:
                slopes = mean_slopes(pictures, truths, lattice(side, kind), rms)
                print(f"| {rms:g}/255 | {' | '.join(f'{value:.2f}' for value in slopes.values())} |", flush=True)
                rows.append({"lattice": kind, "over": base, "rms_255": rms, "slopes": slopes})
    if arguments.json:
        write_report(arguments.json, {"crops": len(truths), "side": side, "rows": rows})


def mean_slopes(pictures: list[Tensor], truths: list[Tensor], pattern: Tensor, rms: float) -> dict[str, float]:
    """The slope of each term, mean over the pictures, times 1e6."""
    pairs = list(zip(pictures, truths, strict=True))
    return {
        name: 1e6 * statistics.fmean(slope(term, x, y, pattern, rms) for x, y in pairs) for name, term in TERMS.items()
    }


if __name__ == "__main__":
    main()
