"""Which loss pulls a lattice out of a picture, and how hard: the slope of each along a 32-px lattice.

    python benchmarks/lattice_slopes.py PICTURES [--side 384] [--lattice woven|cells]

`woven` is a smooth wave in both directions; `cells` repeats one random cell of 32x32 px, as tokens that are unpacked
alike leave it.

A lattice of a given RMS is laid over the middle crop of each picture: once over the picture itself, once over its
bicubic enlargement from a quarter of its side, which is as smooth as a regression leaves it. Prints the mean slope of
each term of the ablation, with its weight, per 1/255 of RMS: above 0 the term pulls the lattice out, below 0 it feeds
it.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

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
    parser.add_argument("--lattice", choices=("woven", "cells"), default="woven")
    arguments = parser.parse_args()
    side, pattern = arguments.side, lattice(arguments.side, arguments.lattice)
    truths = []
    for path in sorted(arguments.pictures.iterdir()):
        whole = read_picture(path).rgb
        top, left = ((length - side) // 2 for length in whole.shape[-2:])
        truths.append(whole[..., top : top + side, left : left + side])
    smooth = [resize(resize(x, Size(side // 4, side // 4)), Size(side, side)) for x in truths]
    print(f"{len(truths)} crops of {side} px; slope per 1/255, times 1e6")
    for name, bases in (("over the truth", truths), ("over its bicubic enlargement", smooth)):
        print(f"\n| {name}, RMS | {' | '.join(TERMS)} |\n" + "|---" * (len(TERMS) + 1) + "|")
        for rms in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
            rows = [[slope(t, b, y, pattern, rms) for t in TERMS.values()] for b, y in zip(bases, truths, strict=True)]
            means = torch.tensor(rows).mean(0) * 1e6
            print(f"| {rms:g}/255 | {' | '.join(f'{float(value):.2f}' for value in means)} |", flush=True)


if __name__ == "__main__":
    main()
