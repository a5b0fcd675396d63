"""Which period a spectrum shows: combs over lattice points, and the fundamental among periods that share points."""

import math

import torch
from torch import Tensor

from .spectrum import LONGEST, SHORTEST, comb, excess, lattice_points, middle, ratio_at

JPEG = 8
CERTAIN = 8.0
"""Comb statistic in standard deviations of chance above which a period is followed; see docs/periodicity.md."""

_ORDERS = 4  # harmonics of each axis that a period between whole px is tried with,
_TRIALS = 1.75  # and how much more certain it must be: there are many, and few points of each
_OWN = 0.3  # share of the certainty that a multiple must have in points of its own
_CANDIDATES = 3


def axis_points(frequency: float, orders: int = LONGEST) -> tuple[Tensor, Tensor]:
    """(fy, fx) of all harmonics of `frequency` on the two axes, up to half a cycle per px: where straight lines are."""
    top = min(orders, int(0.5 / frequency + 1e-6))
    along = torch.arange(1, top + 1).double() * frequency
    nothing = torch.zeros_like(along)
    return torch.cat([along, nothing]), torch.cat([nothing, along])


def statistic_of(ratio: Tensor, shape: torch.Size, frequency: float, orders: int = LONGEST) -> float:
    """The stronger of two combs: the points that belong to no shorter period, and the harmonics on the axes.

    A woven pattern or a field of cells shows in the first; lines, whose harmonics all stand out, in the second.
    """
    own = comb(ratio, shape, frequency, orders)
    lines = excess(ratio_at(ratio, *axis_points(frequency, orders), shape))
    return max(own, lines)


def beyond(ratio: Tensor, shape: torch.Size, longer: float, shorter: float) -> float:
    """The comb statistic of the points that period `longer` has and its part `shorter` has not."""
    found = []
    for fy, fx in (axis_points(1 / longer), lattice_points(1 / longer, _ORDERS, own=False)):
        inside = _whole(fy * shorter) & _whole(fx * shorter)
        fy, fx = fy[~inside], fx[~inside]
        found.append(excess(ratio_at(ratio, fy, fx, shape)))
    return max(found)


def _whole(x: Tensor) -> Tensor:
    return (x - x.round()).abs() < 1e-3


def find_periods(ratio: Tensor, shape: torch.Size, longest: int) -> tuple[list[float], dict[float, float]]:
    """(periods in px that may explain the spectrum, the likeliest first, none where none is certain; all statistics).

    Whole periods with all their harmonics, and every bin between (a picture that was resized) with the low ones.
    """
    bins = max(shape)
    whole = {float(p): statistic_of(ratio, shape, 1 / p) for p in range(SHORTEST, longest + 1)}
    tried = range(bins // longest + 1, bins // SHORTEST)
    between = {bins / n: statistic_of(ratio, shape, n / bins, _ORDERS) / _TRIALS for n in tried}
    statistic = between | whole
    return candidates(ratio, shape, statistic), statistic


def candidates(ratio: Tensor, shape: torch.Size, statistic: dict[float, float]) -> list[float]:
    """Up to three fundamentals, the likeliest first; JPEG's grid of 8 px and its half stand back behind any other.

    A transform cannot tell some fractional periods from a whole one: they are that one.
    """
    bins = max(shape)
    left = {period: z for period, z in statistic.items() if z > CERTAIN}
    found: list[float] = []
    while left and len(found) < _CANDIDATES:
        best = max(left, key=lambda period: left[period])
        fundamental = _fundamental(ratio, shape, statistic, best)
        whole = [p for p in statistic if p == round(p) and _same(p, fundamental, bins)]
        found.append(max(whole, key=lambda period: statistic[period], default=fundamental))
        left = {p: z for p, z in left.items() if not _is_explained(ratio, shape, p, found[-1]) and p != best}
    found = list(dict.fromkeys(found))
    grid = [p for p in found if min(abs(1 / p - 1 / q) for q in (JPEG, JPEG / 2)) < 2.5 / bins]
    others = [p for p in found if p not in grid]
    yields = bool(grid and others) and statistic[others[0]] > 0.6 * statistic[grid[0]]
    return others + grid if yields else found


def _fundamental(ratio: Tensor, shape: torch.Size, statistic: dict[float, float], best: float) -> float:
    """The longest multiple of `best` that has energy of its own, or `best`."""
    bins = max(shape)
    longest = best
    for period in sorted(statistic):
        times = round(period / best)
        if times < 2 or not _same(period / times, best, bins):
            continue
        if statistic[period] < _OWN * statistic[best]:
            continue
        if beyond(ratio, shape, period, period / times) > max(CERTAIN / 2, _OWN * statistic[best]):
            longest = period
    return longest


def _is_explained(ratio: Tensor, shape: torch.Size, period: float, found: float) -> bool:
    """Whether `period` is a harmonic of `found`, or a multiple of it with no energy of its own."""
    bins = max(shape)
    longer, shorter = max(period, found), min(period, found)
    times = max(1, round(longer / shorter))
    if not _same(longer / times, shorter, bins):
        return False
    return period <= found or times == 1 or beyond(ratio, shape, longer, longer / times) < CERTAIN


def _same(a: float, b: float, bins: int) -> bool:
    return abs(1 / a - 1 / b) <= 0.75 / bins


def suspect_decibels(ratio: Tensor, shape: torch.Size, period: int) -> float:
    """Mean of a period's own lattice points over their background, dB: 0 is chance."""
    return 10 * math.log10(max(1e-3, float(ratio_at(ratio, *lattice_points(1 / period), shape).mean())))


def repeat_of_texture(residual: Tensor, longest: int, least: float = 0.3) -> tuple[float, int]:
    """(normalised autocorrelation, lag in px) of the strongest repeat along an axis, in the middle 1024 px.

    (0, 0) where none reaches `least`.
    """
    x = middle(residual, 1024)
    best = (0.0, 0)
    for lines in (x.mT, x):
        curve = _repeat_along(lines, longest + 2)
        lags = torch.arange(longest + 2)
        inner = curve[1:-1]
        top_of = (inner > curve[:-2]) & (inner > curve[2:]) & (lags[1:-1] >= SHORTEST)
        rise = inner - torch.cummin(curve, 0).values[1:-1]  # over the dip before it
        height_of = torch.where(top_of & (rise > least), inner, 0)
        lag = int(height_of.argmax())
        best = max(best, (float(height_of[lag]), lag + 1))
    return best if best[0] > least else (0.0, 0)


def _repeat_along(lines: Tensor, lags: int) -> Tensor:
    """Normalised, unbiased autocorrelation along the last axis of (lines, length), without wrap-around: (lags,)."""
    length = lines.shape[1]
    parts = torch.view_as_real(torch.fft.rfft(lines, n=2 * length))
    shared = torch.fft.irfft(parts.square().sum((0, 2)))[:lags]
    return shared / shared[0].clamp_min(1e-9) * length / (length - torch.arange(lags))
