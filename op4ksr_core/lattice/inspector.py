"""The periodicity inspector: is there a lattice in the picture, of what period, how strong, and where.

A decoder or a one-step transformer can leave a faint pattern that repeats every P px over the whole picture
(OP4KSR, arXiv 2605.13457, figures 2 and 6). Against a photo it has three marks: its energy sits on exact multiples
(k/P, l/P) of one frequency, it keeps its phase over unrelated regions, and it is there in flat areas too. So:

1. luma, high-passed, each pixel weighted by 1 / (local variance + 1): flat areas speak, edges and textures hardly do;
2. its spectrum over a local background (geometric mean of the neighbourhood, along the axes for the axes);
3. the comb: for every period, how far the points that belong to it alone stand above chance;
4. demodulation in blocks at the points that stand out: the lattice's amplitude and phase everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ImageError, SettingError
from .autocorrelation import LAGS, autocorrelation, quadrants
from .spectrum import LONGEST, SHORTEST, comb, lattice_points, luma255, ratio_at, spectrum, whitened
from .waves import Lattice, measure, peak_points, refine

JPEG = 8
_ORDERS = 4  # harmonics of each axis that a period between whole px is tried with,
_TRIALS = 1.75  # and how much more certain it must be: there are many, and few points of each
_PERIODS_WANTED = 8  # periods that the shorter side must hold for a search
_CERTAIN = 8.0  # comb statistic, see docs/periodicity.md
_TRACE = 0.05  # amplitude in 1/255 below which nothing is reported
_VISIBLE = 0.35  # amplitude in 1/255 at which the score is one half
_COHERENT, _COHERENT_BETWEEN = 0.4, 0.85  # of a faint lattice of whole, and of fractional period
_COHERENT_STRONG = 0.7  # of one of 3/255 and more
_TEXTURE = 0.3  # normalised autocorrelation of a real texture


@dataclass(frozen=True)
class Peak:
    """One point of the lattice: cycles per px down and across, amplitude in 1/255, dB over the background."""

    fy: float
    fx: float
    amplitude: float
    decibels: float


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    score: 0 (no lattice) to 1. verdict: `clean`, `lattice` or `texture`; reason: why, in plain sentences.
    period: px, 0 where there is none; it may be fractional after a resize. amplitude: 1/255, in the tenth of the
    flat area where the lattice is strongest. confidence: 0 to 1. coherence: how far all blocks agree on the phase,
    0 to 1. jpeg_grid: whether the 8-px grid of JPEG blocks stands out. suspects: dB over chance of each period asked
    for. autocorrelation: (quadrants, 2, lags) of luma in [0, 1]. ap_loss: L_AP against the reference, if there was
    one. heat: (blocks down, blocks across), amplitude in 1/255.
    """

    score: float
    verdict: str
    reason: str
    period: float
    amplitude: float
    confidence: float
    coherence: float
    jpeg_grid: bool
    suspects: dict[int, float]
    peaks: tuple[Peak, ...]
    autocorrelation: Tensor | None
    ap_loss: float | None
    heat: Tensor
    spectrum: Tensor = field(repr=False)
    lattice: Lattice | None = field(repr=False)


def inspect(
    image_chw: Tensor, reference_chw: Tensor | None = None, suspects: Sequence[int] = (8, 16, 32), search: bool = True
) -> Inspection:
    """Looks for a lattice in one picture (1, 3 or 4, H, W) in [0, 1]; alpha is left out.

    `suspects` are the periods whose strength is reported, in px; with `search` off they are the only ones that can be
    found. The reference, ground truth or upscaled input of the same size, is what L_AP compares with. Raises
    ImageError on NaN, a picture shorter than 2 periods or 32 px, or sizes that differ; SettingError on a period
    outside 4..128 px.
    """
    luma = luma255(image_chw)
    _check(luma, suspects, reference_chw)
    residual, weight = whitened(luma)
    ratio = spectrum(residual, weight)
    longest = min(LONGEST, min(luma.shape) // _PERIODS_WANTED)
    if search:
        period, statistic = find_period(ratio, luma.shape, longest)
    else:
        statistic = {float(p): comb(ratio, luma.shape, 1 / p) for p in suspects}
        period = dominant(statistic, max(luma.shape))
    found = _follow(residual, weight, ratio, period)
    if found is not None and found.amplitude < _TRACE:
        found = None
    texture = repeat_of_texture(residual, min(LONGEST, min(luma.shape) // 2 - 2))
    verdict, reason = _judge(found, texture, statistic)
    curves = _autocorrelation(luma) if min(luma.shape) // 2 > max(LAGS) else None
    lattice = found if verdict == "lattice" else None
    amplitude = lattice.amplitude if lattice else 0.0
    z = max(statistic.values(), default=0.0)
    certainty = z**2 / (z**2 + _CERTAIN**2)
    grid = is_jpeg_grid(luma)
    if grid and lattice and lattice.period == JPEG:
        reason = f"This is JPEG's block grid. {reason}"
    coherence = found.coherence if found else 0.0
    return Inspection(
        score=amplitude**2 / (amplitude**2 + _VISIBLE**2),
        verdict=verdict,
        reason=reason,
        period=_told_period(verdict, found, texture),
        amplitude=amplitude,
        confidence={"lattice": certainty * coherence, "clean": 1 - certainty, "texture": max(texture[0], 0.5)}[verdict],
        coherence=coherence,
        jpeg_grid=grid,
        suspects={p: suspect_decibels(ratio, luma.shape, p) for p in suspects},
        peaks=found.peaks if found else (),
        autocorrelation=curves,
        ap_loss=_ap_loss(image_chw, reference_chw),
        heat=lattice.heat if lattice else torch.zeros(1, 1),
        spectrum=ratio,
        lattice=lattice.lattice if lattice else None,
    )


def _told_period(verdict: str, found: "_Found | None", texture: tuple[float, int]) -> float:
    """A lattice's period; a texture's, which its repeat tells better; else 0."""
    if verdict == "texture" and texture[1]:
        return float(texture[1])
    return found.period if found else 0.0


def is_jpeg_grid(luma: Tensor) -> bool:
    """Whether steps from px to px are larger at every eighth border, and there alone; a smooth wave has no such."""
    for axis in (0, 1):
        steps = sum(part.diff(dim=1).abs_().sum(0) for part in luma.movedim(axis, 1).split(256))
        steps = steps[: len(steps) // JPEG * JPEG].reshape(-1, JPEG).mean(0)
        border, others = steps[-1], steps[:-1]
        if border > 1.02 * others.max() and border - others.max() > 0.5 * (border - others.min()):
            return True
    return False


@dataclass(frozen=True)
class _Found:
    period: float
    lattice: Lattice
    heat: Tensor
    amplitude: float
    coherence: float
    peaks: tuple[Peak, ...]


def _follow(residual: Tensor, weight: Tensor, ratio: Tensor, period: float) -> _Found | None:
    """The waves of this period that stand out, followed over the picture; of a whole and its refined one, the steadier.

    Refining hangs on one wave, which things in the picture can pull away from a lattice of whole period.
    """
    if not period:
        return None
    fy, fx, _ = peak_points(ratio, residual.shape, 1 / period)
    if len(fy) == 0:
        return None
    refined = period / refine(residual, weight, fy, fx, period)
    resolution = refined**2 / max(residual.shape)
    refined = round(refined) if abs(refined - round(refined)) < 0.2 * resolution + 0.01 else refined
    tried = {period, refined} if period == round(period) else {refined}
    found = [_measured(residual, weight, ratio, one) for one in sorted(tried)]
    return max((one for one in found if one), key=lambda one: one.coherence, default=None)


def _measured(residual: Tensor, weight: Tensor, ratio: Tensor, period: float) -> _Found | None:
    fy, fx, r = peak_points(ratio, residual.shape, 1 / period)
    if len(fy) == 0:
        return None
    lattice, heat, share, coherence = measure(residual, weight, 1 / period, fy, fx, r)
    sizes, decibels = lattice.amplitude.abs(), 10 * r.log10()
    peaks = tuple(Peak(*map(float, row)) for row in zip(fy, fx, sizes, decibels, strict=True))
    return _Found(period, lattice, heat, strongest_tenth(heat, share), coherence, peaks)


def strongest_tenth(heat: Tensor, share: Tensor) -> float:
    """The amplitude that a tenth of the flat area reaches."""
    order = heat.flatten().argsort(descending=True)
    reached = share.flatten()[order].cumsum(0) / share.sum()
    return float(heat.flatten()[order][int((reached < 0.1).sum().clamp(max=len(order) - 1))])


def _judge(found: _Found | None, texture: tuple[float, int], statistic: dict[float, float]) -> tuple[str, str]:
    """Verdict and its reason."""
    repeat = f"Luma repeats every {texture[1]} px (correlation {texture[0]:.2f}), as a fence, a wall or a fabric does."
    best = max(statistic.values(), default=0.0)
    if found is None:
        if texture[1]:
            return "texture", f"{repeat} No period keeps its phase over the flat areas."
        return "clean", (
            f"No period stands out by {_TRACE:g}/255 or more; the best comb is {best:.1f} (a lattice: {_CERTAIN:g})."
        )
    where = f"period {found.period:.4g} px, amplitude {found.amplitude:.2f}/255 where it is strongest"
    if found.coherence >= _wanted_coherence(found):
        return "lattice", (
            f"A lattice of {where}: {len(found.peaks)} of its harmonics stand out, and blocks all over the picture "
            f"agree on its phase ({found.coherence:.2f} of 1), flat areas included."
        )
    why = f"Something repeats with {where}, but blocks disagree on its phase ({found.coherence:.2f} of 1)"
    return "texture", f"{why}: it belongs to things in the picture. {repeat if texture[1] else ''}".strip()


def _wanted_coherence(found: _Found) -> float:
    """A faint lattice drowns in places; a strong one that does not keep its phase is none."""
    least = _COHERENT if found.period == round(found.period) else _COHERENT_BETWEEN
    return least + (_COHERENT_STRONG - least) * min(1.0, max(0.0, found.amplitude - 1) / 2)


def dominant(statistic: dict[float, float], bins: int) -> float:
    """The period that explains the combs best, 0 where none is certain.

    The longest multiple that has energy of its own stands for its divisors; the 8-px grid of JPEG and its half stand
    back behind any other. Periods that a transform of `bins` cannot tell from a whole one are that one.
    """
    certain = {period: z for period, z in statistic.items() if z > _CERTAIN}
    grid = {p: z for p, z in certain.items() if min(abs(1 / p - 1 / q) for q in (JPEG, JPEG / 2)) < 2.5 / bins}
    others = {period: z for period, z in certain.items() if period not in grid}
    grid_yields = max(others.values(), default=0.0) > 0.6 * max(grid.values(), default=0.0)
    family = others if grid_yields else grid
    if not family:
        return 0.0
    best = max(family, key=lambda period: family[period])
    multiples = [
        period
        for period, z in family.items()
        if z > 0.3 * family[best] and round(period / best) > 1 and _same(period / round(period / best), best, bins)
    ]
    longest = max(multiples, default=best)
    whole = [p for p in statistic if p == round(p) and _same(p, longest, bins)]
    return max(whole, key=lambda period: statistic[period], default=longest)


def _same(a: float, b: float, bins: int) -> bool:
    return abs(1 / a - 1 / b) <= 0.75 / bins


def find_period(ratio: Tensor, shape: torch.Size, longest: int) -> tuple[float, dict[float, float]]:
    """(dominant period in px or 0, comb statistic of every period tried).

    Whole periods with all their harmonics, and every bin between (a picture that was resized) with the low ones.
    """
    bins = max(shape)
    whole = {float(p): comb(ratio, shape, 1 / p) for p in range(SHORTEST, longest + 1)}
    tried = range(bins // longest + 1, bins // SHORTEST)
    between = {bins / n: comb(ratio, shape, n / bins, _ORDERS) / _TRIALS for n in tried}
    statistic = between | whole
    return dominant(statistic, bins), statistic


def repeat_of_texture(residual: Tensor, longest: int) -> tuple[float, int]:
    """(normalised autocorrelation, lag in px) of the strongest repeat along an axis, in the middle 1024 px."""
    height, width = (min(1024, side) for side in residual.shape)
    top, left = (residual.shape[0] - height) // 2, (residual.shape[1] - width) // 2
    x = residual[top : top + height, left : left + width]
    power = torch.fft.rfft2(x, s=(2 * height, 2 * width)).abs().square()
    shared = torch.fft.irfft2(power)
    best = (0.0, 0)
    for line, length in ((shared[:, 0], height), (shared[0], width)):
        lags = torch.arange(longest + 2)
        curve = line[lags] / line[0].clamp_min(1e-9) * length / (length - lags)
        inner = curve[1:-1]
        top_of = (inner > curve[:-2]) & (inner > curve[2:]) & (lags[1:-1] >= SHORTEST)
        rise = inner - torch.cummin(curve, 0).values[1:-1]  # over the dip before it
        height_of = torch.where(top_of & (rise > _TEXTURE), inner, 0)
        lag = int(height_of.argmax())
        best = max(best, (float(height_of[lag]), lag + 1))
    return best if best[0] > _TEXTURE else (0.0, 0)


def suspect_decibels(ratio: Tensor, shape: torch.Size, period: int) -> float:
    """Mean of a period's own lattice points over their background, dB: 0 is chance."""
    return 10 * math.log10(max(1e-3, float(ratio_at(ratio, *lattice_points(1 / period), shape).mean())))


def _check(luma: Tensor, suspects: Sequence[int], reference_chw: Tensor | None) -> None:
    shortest = min(luma.shape)
    wrong = [p for p in suspects if not SHORTEST <= p <= LONGEST]
    if wrong:
        raise SettingError(f"Periods lie in {SHORTEST}..{LONGEST} px, got {', '.join(map(str, wrong))}.")
    needed = max(32, 2 * max(suspects, default=SHORTEST))
    if shortest < needed:
        raise ImageError(
            f"The picture is {luma.shape[1]}x{luma.shape[0]} px; periods up to {max(suspects, default=SHORTEST)} px "
            f"need at least {needed} px a side. Inspect the large picture, or ask for shorter periods."
        )
    if reference_chw is not None and reference_chw.shape[-2:] != luma.shape:
        size = "x".join(str(side) for side in reversed(reference_chw.shape[-2:]))
        raise ImageError(
            f"The reference is {size} px, the picture {luma.shape[1]}x{luma.shape[0]}: resize the reference first."
        )


def _ap_loss(image_chw: Tensor, reference_chw: Tensor | None) -> float | None:
    """L_AP of luma in [0, 1] against the reference; None without one, or where quadrants are too small for its lags."""
    if reference_chw is None or min(image_chw.shape[-2:]) // 2 <= max(LAGS):
        return None
    a, b = (_autocorrelation(luma255(x)) for x in (image_chw, reference_chw))
    return float((a - b).square().mean())


def _autocorrelation(luma: Tensor) -> Tensor:
    """(quadrants, 2, lags) of luma in [0, 1], a quadrant at a time."""
    return torch.stack([autocorrelation(quadrant / 255) for quadrant in quadrants(luma[None, None])[:, 0, 0]])
