"""The metrics of the benchmarks' tables. Pictures are (1, 3, H, W) in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from op4ksr_core.evaluate.measures import luma, quantised
from op4ksr_core.evaluate.metrics import METRICS, Tiles

NAMES = ("psnr", "ssim", "ms_ssim", "vif", "gmsd", "hf_energy_db", "hf_correlation", "niqe")


def all_metrics(picture: Tensor, truth: Tensor, names: Sequence[str] = NAMES) -> dict[str, float]:
    """The metrics of these names, of what 8-bit files would hold."""
    a, b = quantised(picture), quantised(truth)
    return {name: METRICS[name](a, b, Tiles()) for name in names}


def wins(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
    """The metrics in which ours are better."""
    return [name for name in ours if METRICS[name].goodness(ours[name]) > METRICS[name].goodness(theirs[name])]


def lattice_decibels(picture: Tensor, period: int = 32, patch: int = 128) -> float:
    """Phase-locked energy of a `period`-px lattice over what chance alone would leave, in dB (0: none).

    Luma is high-passed and clipped to 3/255, so that flat areas speak and edges hardly do. Spectra of
    patches that start at multiples of `patch` px are averaged as complex numbers: a lattice locked to
    the origin adds up, content does not. The ratio is taken over the lattice points (k, l)/period with
    k or l odd, against the power that N patches of random phase would keep, 1/N of their mean power.
    """
    y = luma(picture)[0, 0] * 255
    fine = (y - F.avg_pool2d(y[None, None], 9, 1, 4, count_include_pad=False)[0, 0]).clamp(-3, 3)
    patches = fine.unfold(0, patch, patch).unfold(1, patch, patch).reshape(-1, patch, patch)
    window = torch.hann_window(patch, periodic=True)
    spectra = torch.fft.fft2(patches * window[:, None] * window)
    together = spectra.mean(0).abs() ** 2
    by_chance = (spectra.abs() ** 2).mean(0) / len(patches)
    index = torch.arange(patch)
    on = index % (patch // period) == 0
    odd = index % (2 * patch // period) == patch // period
    points = (on[:, None] & on) & (odd[:, None] | odd)
    return float(10 * torch.log10(together[points].sum() / by_chance[points].sum()))
