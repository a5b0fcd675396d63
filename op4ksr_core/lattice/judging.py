"""Judges the periods that stand out: which is a lattice that a model left, and what objects to the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .evidence import MACHINERY, is_certain, objection
from .reference import Added
from .spectrum import SHORTEST, spectrum, whitened
from .waves import Followed, block_size, demodulate, measure, peak_points, refined

_KEPT, _SHARED = (0.6, 1.0), (0.75, 0.08)
"""A pattern is the small picture's own at this coherence and this share of the added amplitude: of one that is stronger
there, and of one that the small picture cannot hold whole, as a line is that is thinner than a px of it."""
_MULTIPLES = (2, 3, 4)  # of a period, at which a pattern of the picture's own may have its fundamental
_EXACT, _STRONGER = 0.01, 4.0  # how near to a multiple, and how much stronger, that is without the small picture
_NEARLY_ALL, _ALL = 0.9, 0.98  # shares of the energy
_PARTS = (8, 6, 5, 4, 3, 2)
_HELD = 0.45  # cycles per px of the small picture: beyond, most of a wave is lost when a picture is reduced
_OWN = 0.3  # share of its energy that a longer pattern has besides the waves of a shorter one


@dataclass(frozen=True)
class Peak:
    """One point of the lattice: cycles per px down and across, amplitude in 1/255, dB over the background."""

    fy: float
    fx: float
    amplitude: float
    decibels: float


@dataclass(frozen=True)
class Found:
    """A period, the waves that stand out at it, and what objects to their being a lattice; empty where nothing does."""

    period: float
    followed: Followed
    amplitude: float
    peaks: tuple[Peak, ...]
    objection: str


def _judged(residual: Tensor, weight: Tensor, ratio: Tensor, period: float, added: Added | None) -> Found | None:
    """The waves of this period, at its exact value, followed over the picture and judged."""
    fy, fx, r = peak_points(ratio, residual.shape, 1 / period)
    if len(fy) == 0:
        return None
    weighted, block = weight * residual, block_size(residual.shape)
    local = demodulate(weighted, fy, fx, block)
    exact = refined(local, fy, fx, period, block, residual.shape)
    if exact != period:
        fy, fx, r = peak_points(ratio, residual.shape, 1 / exact)
        if len(fy) == 0:
            return None
        local = demodulate(weighted, fy, fx, block)
    followed = measure(residual, weight, 1 / exact, fy, fx, r, local)
    part = _largest_part(followed)
    if part > 1 and exact / part >= SHORTEST:
        return _judged(residual, weight, ratio, exact / part, added)
    amplitude = strongest_tenth(followed.heat, followed.share)
    sizes, decibels = followed.lattice.amplitude.abs(), 10 * r.log10()
    peaks = tuple(Peak(*map(float, row)) for row in zip(fy, fx, sizes, decibels, strict=True))
    tells = added is not None and not _is_finer(added, followed)
    if added is not None and not tells and exact not in MACHINERY:
        against = "the small picture cannot hold so fine a pattern, and that is no pitch of a model"
    else:
        against = objection(exact, amplitude, followed, residual, tells)
    if added is not None and not against:
        against = _in_the_small_picture(added, followed) or _not_seen_alone(added.luma, exact)
    if added is not None and not against and not tells:
        against = _harmonic_of_the_small_picture(added, followed)
    if not against and (tells or is_certain(exact, amplitude, followed)):
        followed = replace(followed, lattice=replace(followed.lattice, certain=True))
    return Found(exact, followed, amplitude, peaks, against)


def _largest_part(followed: Followed) -> int:
    """By what the period is divided, so that it is the fundamental: all of the energy is at these harmonics."""
    return next((part for part in _PARTS if _share_besides(followed, part) <= 1 - _ALL), 1)


def _share_besides(followed: Followed, part: int) -> float:
    """Share of the energy of waves that are no harmonics of a period `part` times shorter."""
    lattice = followed.lattice
    harmonics = torch.stack([lattice.fy, lattice.fx]).div(lattice.frequency).round().long()
    return lattice.share((harmonics % part != 0).any(0))


def _is_finer(added: Added, followed: Followed) -> bool:
    """Whether the small picture cannot hold these waves, and so does not tell whose they are."""
    return followed.lattice.share(~_coarse(added, followed, _HELD)) >= _NEARLY_ALL


def _coarse(added: Added, followed: Followed, limit: float = 0.5) -> Tensor:
    """Which of the waves the small picture can hold: those of up to `limit` cycles per px of it."""
    lattice, small_px = followed.lattice, math.sqrt(added.luma.numel() / added.small.numel())
    return lattice.fy.abs().maximum(lattice.fx) <= limit / small_px


def _explained(added: Added, frequency: float, fy: Tensor, fx: Tensor, kept: Tensor) -> Followed:
    """These waves in what the small picture explains."""
    local = demodulate(added.weight * added.explained, fy, fx, block_size(added.explained.shape))
    return measure(added.explained, added.weight, frequency, fy, fx, kept + 2, local)


def _strength(amplitude: Tensor) -> float:
    """Of waves together, in 1/255."""
    return float(amplitude.abs().square().sum().sqrt())


def _in_the_small_picture(added: Added, followed: Followed) -> str:
    """The objection that the small picture has this pattern itself, by those of its waves that it can hold."""
    lattice, held = followed.lattice, _coarse(added, followed)
    held = held if bool(held.any()) else torch.ones_like(held)
    before = _explained(added, lattice.frequency, lattice.fy[held], lattice.fx[held], lattice.kept[held])
    there, found = _strength(before.lattice.amplitude), _strength(lattice.amplitude[held])
    all_is_held = found >= _ALL * _strength(lattice.amplitude)
    enough = (_KEPT,) if all_is_held else (_KEPT, _SHARED)
    if any(before.coherence > coherence and there > share * found for coherence, share in enough):
        return "the small picture has it too"
    return ""


def _harmonic_of_the_small_picture(added: Added, followed: Followed) -> str:
    """The objection that these waves, which the small picture cannot hold, are harmonics of a pattern that it has."""
    coherence, share = _KEPT
    for multiple in _MULTIPLES:
        frequency = followed.lattice.frequency / multiple
        fy, fx = frequency * torch.tensor([[0.0, 1.0, 1.0, -1.0], [1.0, 0.0, 1.0, 1.0]])
        before = _explained(added, frequency, fy, fx, torch.zeros_like(fy))
        strong = _strength(before.lattice.amplitude) > share * _strength(followed.lattice.amplitude)
        if strong and before.coherence > coherence:
            return f"it is a harmonic of the small picture's own pattern of {1 / frequency:.4g} px"
    return ""


def _not_seen_alone(luma: Tensor, period: float) -> str:
    """The objection that a pitch which is not a model's does not pass on the whole picture too.

    Real patterns finer than the small picture can hold are not explained by it: fabrics, nets, prints.
    """
    if period in MACHINERY:
        return ""
    residual, weight = whitened(luma)
    one = _judged(residual, weight, spectrum(residual, weight), period, None)
    if one is not None and not one.objection:
        return ""
    return "its pitch is not a model's, and the whole picture does not bear it out"


def foremost(
    periods: Sequence[float], residual: Tensor, weight: Tensor, ratio: Tensor, added: Added | None
) -> Found | None:
    """The likeliest that nothing objects to; else the strongest; None of none."""
    judged: list[Found] = []
    for period in periods:
        one = _judged(residual, weight, ratio, period, added)
        if one is None:
            continue
        against = one.objection or _harmonic_of(one, judged) or _same_waves(one, judged)
        if added is None:
            against = against or _part_of(one, judged)
        one = replace(one, objection=against)
        if not one.objection:
            return one
        judged.append(one)
    return max(judged, key=lambda one: one.amplitude, default=None)


def _harmonic_of(one: Found, judged: Sequence[Found]) -> str:
    """The objection that this is a harmonic of a far stronger pattern, which was judged to be no lattice."""
    for other in judged:
        multiple = other.period / one.period
        whole = round(multiple) in _MULTIPLES and abs(multiple - round(multiple)) < _EXACT
        if whole and other.amplitude > _STRONGER * one.amplitude:
            return f"it is a harmonic of what repeats every {other.period:.4g} px"
    return ""


def _part_of(one: Found, judged: Sequence[Found]) -> str:
    """The objection to a pattern of a longer period, of whose waves this one's are some."""
    for other in judged:
        multiple = round(other.period / one.period)
        if multiple < 2 or abs(other.period / one.period - multiple) >= _EXACT:
            continue
        if _share_besides(other.followed, multiple) > _OWN:
            return other.objection
    return ""


def _same_waves(one: Found, judged: Sequence[Found]) -> str:
    """The objection to a pattern of a shorter period that this one's waves belong to."""
    lattice = one.followed.lattice
    for other in judged:
        turns = torch.stack([lattice.fy, lattice.fx]) * other.period
        belongs = ((turns - turns.round()).abs() < _EXACT).all(0)
        if other.period < one.period and lattice.share(belongs) >= _NEARLY_ALL:
            return other.objection
    return ""


def strongest_tenth(heat: Tensor, share: Tensor) -> float:
    """The amplitude that a tenth of the flat area reaches."""
    order = heat.flatten().argsort(descending=True)
    reached = share.flatten()[order].cumsum(0) / share.sum()
    return float(heat.flatten()[order][int((reached < 0.1).sum().clamp(max=len(order) - 1))])
