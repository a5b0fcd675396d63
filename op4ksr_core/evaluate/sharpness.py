"""High frequencies beside a truth: how strong they are, and how much of them is the same detail."""

import math

import torch
from torch import Tensor

from ..picture.luma import FULL_RANGE

LOW, HIGH = 1 / 8, 1 / 2
"""The band of fine detail, in cycles per px: what a picture made small by 4 does not hold."""


def hf_energy_db(a: Tensor, b: Tensor) -> float:
    """Power of picture `a` in the band of fine detail over that of the truth `b`, in dB: 0 is as sharp as the truth.

    Pictures are (1, 3, H, W) in [0, 1]; luma, under a Hann window. Noise and invented detail count as detail.
    """
    power_a, power_b, _ = _powers(a, b)
    return 10 * math.log10((power_a + 1) / (power_b + 1))


def hf_correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of the picture's band of fine detail with the truth's: 1 is the same detail, 0 unrelated detail."""
    power_a, power_b, common = _powers(a, b)
    return common / math.sqrt(power_a * power_b + 1e-9)


def _powers(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    x, y = (_band(picture) for picture in (a, b))
    return float(x.abs().square().sum()), float(y.abs().square().sum()), float((x * y.conj()).real.sum())


def _band(picture: Tensor) -> Tensor:
    """The spectrum of luma in 0 to 255 within the band, float64."""
    luma = torch.einsum("bchw,c->hw", picture.double(), picture.new_tensor(FULL_RANGE).double()) * 255
    where = luma.device
    rows, columns = (torch.hann_window(side, False, dtype=torch.float64, device=where) for side in luma.shape)
    spectrum = torch.fft.fft2((luma - luma.mean()) * rows[:, None] * columns)
    steps = (torch.fft.fftfreq(side, device=where) for side in luma.shape)
    radius = torch.hypot(*torch.meshgrid(*steps, indexing="ij"))
    return spectrum * ((radius > LOW) & (radius <= HIGH))
