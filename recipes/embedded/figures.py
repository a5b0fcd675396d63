"""Figures of a picture against the truth, for the held-out photographs."""

import math
import statistics

import torch
from torch import Tensor

from op4ksr_core.evaluate.sharpness import hf_correlation, hf_energy_db
from op4ksr_core.picture.soft_areas import luma


def psnr(picture: Tensor, truth: Tensor) -> float:
    """dB of luma, mean over the batch."""
    error = (luma(picture.clamp(0, 1)) - luma(truth)).pow(2).mean((1, 2))
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


def energy_and_correlation(picture: Tensor, truth: Tensor) -> tuple[float, float]:
    """Means over the batch of `evaluate`'s hf_energy_db and hf_correlation."""
    pairs = list(zip(picture.clamp(0, 1).split(1), truth.split(1), strict=True))
    return tuple(statistics.fmean(measure(*pair) for pair in pairs) for measure in (hf_energy_db, hf_correlation))


def lattice(picture: Tensor, truth: Tensor, period: int = 4) -> float:
    """Deviation over the phases of a `period`-px lattice in the high-passed picture, in 1/255, beyond the truth's."""
    return max(0.0, math.sqrt(_phases(picture, period)) - math.sqrt(_phases(truth, period))) * 255


def _phases(x: Tensor, period: int) -> float:
    y = luma(x)
    high = y - torch.nn.functional.avg_pool2d(y[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    height, width = (side // period * period for side in high.shape[-2:])
    cells = high[:, :height, :width].unflatten(1, (-1, period)).unflatten(3, (-1, period))
    return float(cells.mean((0, 1, 3)).var(correction=0))
