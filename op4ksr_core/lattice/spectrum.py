"""The spectrum that the periodicity inspector reads: flat areas weigh most, and noise is about 1 everywhere."""

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from ..errors import ImageError
from ..picture.luma import FULL_RANGE

SHORTEST, LONGEST = 4, 128
"""Periods that are looked for, in px."""
_HIGH_PASS = 33  # px; its response is divided out of every amplitude
_LOCAL = 17  # px over which the local variance is taken
_STRIP = 256  # rows done at a time


def luma255(image_chw: Tensor) -> Tensor:
    """Full-range BT.601 luma (H, W) in [0, 255] of (1 | 3 | 4, H, W) in [0, 1], without alpha. Raises ImageError."""
    if image_chw.ndim != 3 or image_chw.shape[0] not in (1, 3, 4):
        raise ImageError(f"The inspector takes one picture (1, 3 or 4, H, W), got {list(image_chw.shape)}.")
    if not math.isfinite(float(image_chw.sum())):
        raise ImageError("The picture has NaN or infinite values; find the node that made them.")
    x = image_chw.float()
    if len(x) == 1:
        return x[0] * 255
    red, green, blue = (255 * weight for weight in FULL_RANGE)
    return (x[0] * red).add_(x[1], alpha=green).add_(x[2], alpha=blue)


def middle(x: Tensor, side: int) -> Tensor:
    """The middle of (H, W), at most `side` px each way."""
    height, width = (min(side, length) for length in x.shape)
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def windows(x: Tensor, size: int, axis: int) -> Tensor:
    """Sums over `size` neighbours along an axis, where all of them are there, by doubling the width."""
    length = x.shape[axis] - size + 1
    total, width, taken = None, 1, 0
    while True:
        if size & width:
            part = x.narrow(axis, taken, length)
            total = part.clone() if total is None else total.add_(part)
            taken += width
        if 2 * width > size:
            return total  # type: ignore[return-value]
        kept = x.shape[axis] - width
        x = x.narrow(axis, 0, kept) + x.narrow(axis, width, kept)
        width *= 2


def box(x: Tensor, size: int) -> Tensor:
    """Mean over size x size px (odd) of (H, W), borders mirrored."""
    for axis in (0, 1):
        length, half = x.shape[axis], size // 2
        index = torch.arange(-half, length + half).abs()
        index = torch.where(index >= length, 2 * (length - 1) - index, index).clamp(0, length - 1)
        x = windows(x.index_select(axis, index), size, axis).div_(size)
    return x


def strips(height: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Rows to read, rows of those to keep, rows to write: strips that stay in the processor's cache.

    What looks no further than `halo` rows comes out as if done at once.
    """
    for top in range(0, height, _STRIP):
        bottom = min(height, top + _STRIP)
        first, last = max(0, top - halo), min(height, bottom + halo)
        yield slice(first, last), slice(top - first, bottom - first), slice(top, bottom)


def high_passed(y: Tensor) -> Tensor:
    """(H, W) less its mean over 33 x 33 px."""
    mean, out = y.mean(), torch.empty_like(y)
    for read, keep, write in strips(len(y), _HIGH_PASS):
        strip = y[read] - mean
        out[write] = strip.sub_(box(strip, _HIGH_PASS))[keep]
    return out


def activity(y: Tensor) -> Tensor:
    """Mean square of (H, W) over 17 x 17 px."""
    out = torch.empty_like(y)
    for read, keep, write in strips(len(y), _LOCAL):
        out[write] = box(y[read].square(), _LOCAL).clamp_min_(0)[keep]
    return out


def reciprocal(variance: Tensor) -> Tensor:
    """The weight 1 / (variance + 1), in place."""
    return variance.add_(1).reciprocal_()


def whitened(y: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (H, W) -> (high-passed luma, weight 1 / (local variance + 1)), so that flat areas count."""
    residual = high_passed(y)
    return residual, reciprocal(activity(residual))


def high_pass_gain(fy: Tensor, fx: Tensor) -> Tensor:
    """What the high-pass leaves of a wave of these frequencies in cycles per px."""

    def mean_of_wave(f: Tensor) -> Tensor:
        wave = torch.sin(math.pi * _HIGH_PASS * f) / (_HIGH_PASS * torch.sin(math.pi * f))
        return torch.where(f == 0, torch.ones_like(f), wave)

    return 1 - mean_of_wave(fy) * mean_of_wave(fx)


def _around(x: Tensor, half: int, axis: int) -> Tensor:
    """`half` more bins at both ends: axis 0 goes around, as a spectrum does, axis 1 is mirrored and held."""
    length = x.shape[axis]
    index = torch.arange(-half, length + half)
    return x.index_select(axis, index % length if axis == 0 else index.abs().clamp(max=length - 1))


def over_background(power: Tensor) -> Tensor:
    """Power spectrum (rfft2 layout) over its local background: about 1 on average where there is only noise.

    The background is the geometric mean of 13x13 bins without the inner 5x5, times e^0.577 (the mean of an
    exponential over its geometric mean); on the axes, where straight edges pile up, of 25 bins along the axis.
    """
    logs = (power + 1e-9).log_()
    out = torch.empty_like(logs)
    padded = _around(logs, 6, 0)
    for top in range(0, len(logs), _STRIP):
        strip = _around(padded[top : top + _STRIP + 12], 6, 1)
        background = windows(windows(strip, 13, 0), 13, 1)
        background.sub_(windows(windows(strip[4:-4, 4:-4], 5, 0), 5, 1)).div_(144)
        here = slice(top, top + len(background))
        torch.sub(logs[here], background, out=out[here])
    for row in (-2, -1, 0, 1, 2):
        line = logs[row : row + 1 or None]
        out[row] = (line - _along(line, 1))[0]
    for column in (0, 1, 2):
        line = logs[:, column : column + 1]
        out[:, column] = (line - _along(line, 0))[:, 0]
    return out.sub_(0.5772).exp_()


def _along(line: Tensor, axis: int) -> Tensor:
    """Mean of 25 bins along an axis without the inner 5."""
    far, near = windows(_around(line, 12, axis), 25, axis), windows(_around(line, 2, axis), 5, axis)
    return (far - near) / 20


def spectrum(residual: Tensor, weight: Tensor) -> Tensor:
    """`over_background` of the weighted residual under a Hann window: (H, W // 2 + 1)."""
    down, across = (torch.hann_window(side, periodic=True) for side in residual.shape)
    tapered = (weight * residual).mul_(down[:, None]).mul_(across)
    parts = torch.view_as_real(torch.fft.rfft2(tapered))
    return over_background(parts[..., 0].square() + parts[..., 1].square())


def background_at(logs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Background as in `over_background`, at these bins alone: 13x13 without 5x5, on the axes 25 without 5."""
    offset = torch.arange(-12, 13)
    near = offset.abs() <= 6
    far = offset.abs() > 2

    def mean_of_logs(down: Tensor, across: Tensor) -> Tensor:
        i = (rows[:, None] + down) % logs.shape[0]
        j = (columns[:, None] + across).abs().clamp(max=logs.shape[1] - 1)
        return logs[i, j].mean(1)

    grid = torch.cartesian_prod(offset[near], offset[near])
    grid = grid[(grid.abs() > 2).any(1)]
    still = torch.zeros_like(offset[far])
    square = mean_of_logs(grid[:, 0], grid[:, 1])
    along_x, along_y = mean_of_logs(still, offset[far]), mean_of_logs(offset[far], still)
    mean = torch.where(rows.abs() <= 2, along_x, torch.where(columns <= 2, along_y, square))
    return (mean + 0.5772).exp()


def lattice_points(frequency: float, orders: int = LONGEST, own: bool = True) -> tuple[Tensor, Tensor]:
    """(fy, fx) of the half-plane of multiples (k, l) of `frequency` up to half a cycle per px.

    `own` leaves out those of shorter periods: gcd(k, l) = 1 stays.
    """
    rows, columns = _multiples(min(orders, int(0.5 / frequency + 1e-6)), own)
    return rows * frequency, columns * frequency


@cache
def _multiples(top: int, own: bool) -> tuple[Tensor, Tensor]:
    """(k, l) of `lattice_points`, up to `top`; the search asks for the same few many times."""
    rows, columns = torch.meshgrid(torch.arange(-top, top + 1), torch.arange(top + 1), indexing="ij")
    keep = (columns > 0) | (rows > 0)
    if own:
        keep &= torch.gcd(rows, columns) == 1
    return rows[keep].double(), columns[keep].double()


def ratio_at(ratio: Tensor, fy: Tensor, fx: Tensor, shape: torch.Size) -> Tensor:
    """`ratio` of a transform of pictures of `shape`, at the bins nearest to these frequencies."""
    rows = torch.round(fy * shape[0]).long() % shape[0]
    return ratio[rows, torch.round(fx * shape[1]).long().clamp(max=ratio.shape[1] - 1)]


def comb(ratio: Tensor, shape: torch.Size, frequency: float, orders: int = LONGEST) -> float:
    """How far a frequency's own lattice points stand above chance, in standard deviations of chance."""
    return excess(ratio_at(ratio, *lattice_points(frequency, orders), shape))


def excess(r: Tensor) -> float:
    """How far these ratios stand above chance together, in standard deviations of chance; 0 for none.

    A point of ratio r weighs r - ln r - 1 where r > 1: the log-likelihood of a wave there. Over noise, r being
    exponential, that has mean 0.149 and standard deviation 0.417.
    """
    if len(r) == 0:
        return 0.0
    weight = torch.where(r > 1, r - r.clamp_min(1).log() - 1, 0)
    return float((weight.sum() - 0.1485 * len(r)) / (0.417 * math.sqrt(len(r))))
