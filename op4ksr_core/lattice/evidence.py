"""What tells a lattice that a model left from a pattern in the picture.

A model's lattice has the pitch of the model's machinery (4, 8, 16, 32 px and their doubles), lies on the px grid, is
faint, is like its mirror image, and is added to the picture: it has the same phase and the same strength in flat and in
busy parts, in one corner and in the other. A fence, a facade, a fabric or a halftone print fails at least one of these.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .waves import Followed, Lattice, demodulate, gain_of, high_pass_gain

MACHINERY = (4, 8, 16, 32, 64, 128)
"""Pitches in px of patches, tokens and the unpacking of decoders; their multiples by two come from what is nested."""

_CELLS = 4  # parts of the picture a side that are compared
_SURE = 2.5  # standard errors
_FAINTER = 0.35  # of the strongest part: where a lattice that need not be everywhere is not
_PARTS = 3  # that must be able to tell


@dataclass(frozen=True)
class Limits:
    """What a lattice of one class of pitch must show. Pairs are for a faint one (1/255) and a strong one (3/255).

    faintest, strongest: amplitude in 1/255. coherence: at least. agreeing: share of the parts
    that can tell, which must have the lattice in phase and strength. skew: how much it may differ from its
    mirror image. everywhere: whether it must fill the picture. at_two_px: least share of the energy at 2 px.
    """

    faintest: float
    strongest: float
    coherence: tuple[float, float]
    agreeing: float
    skew: tuple[float, float]
    everywhere: bool
    at_two_px: float = 0.0


def _gain(gain: Tensor, share: Tensor, among: Tensor) -> tuple[complex, float]:
    """Mean gain of some blocks and its standard error."""
    total = share[among].sum().clamp_min(1e-9)
    mean = gain[among].sum() / total
    error = (gain - share * mean)[among].abs().square().sum().sqrt() / total
    return complex(mean), float(error)


def agreement(gain: Tensor, share: Tensor, everywhere: bool) -> float:
    """Of 4 x 4 parts of the picture that can tell, the share in which the lattice is alike; 0 where too few can.

    Unless it must be `everywhere`, parts where it is much fainter are left out: a lattice may fill a corner.
    """
    down, across = share.shape
    row = (torch.arange(down) * _CELLS // down)[:, None].expand(down, across)
    column = (torch.arange(across) * _CELLS // across)[None].expand(down, across)
    parts = [_gain(gain, share, (row == i) & (column == j)) for i in range(_CELLS) for j in range(_CELLS)]
    present = [value for value, error in parts if abs(value) > _SURE * error]
    if not present:
        return 0.0
    if not everywhere:
        strongest = max(map(abs, present))
        present = [value for value in present if abs(value) > _FAINTER * strongest]
        parts = [(value, error) for value, error in parts if abs(value) > _FAINTER * strongest]
    usual = sorted(present, key=abs)[len(present) // 2]
    telling = [(value, error) for value, error in parts if _SURE * error < abs(usual)]
    same = [abs(value - usual) < 0.5 * abs(usual) + _SURE / 2 * error for value, error in telling]
    return sum(same) / len(same) if len(same) >= _PARTS else 0.0


def unevenness(residual: Tensor, followed: Followed) -> float:
    """How many times stronger the pattern is without weights, in the busy or the calm half, than the flat areas say.

    Less two standard errors; of a lattice that was added it is about 1.
    """
    lattice, share = followed.lattice, followed.share
    local = demodulate(residual, lattice.fy, lattice.fx, lattice.block)
    passed = high_pass_gain(lattice.fy, lattice.fx)[:, None, None].float()
    gain = gain_of(local, lattice.amplitude, passed)
    even = torch.full_like(share, float(lattice.block**2))
    calm = share >= share.median()
    halves = [_gain(gain, even, among) for among in (calm, ~calm) if bool(among.any())]
    return max(abs(value) - 2 * error for value, error in halves)


_ON_GRID = Limits(0.12, 6.5, (0.4, 0.7), 0.6, (1.0, 0.4), False)
_WHOLE = Limits(0.6, 6.5, (0.75, 0.85), 0.85, (0.3, 0.3), True)
_MULTIPLE = replace(_WHOLE, coherence=(0.5, 0.85), skew=(0.5, 0.3))  # of 8 px: a model may nest it
_BETWEEN = Limits(0.5, 2.5, (0.88, 1.0), 0.9, (0.3, 0.3), True)
_ADDED_ON_GRID = Limits(0.1, 10.0, (0.35, 0.5), 0.5, (1.0, 1.0), False)
_LONG, _NESTED = 32, 8  # px: a longer pitch that no machinery divides is a model's only if the small picture says so
_UNPACKED = 4  # px: what a network leaves that unpacks by as much is faint, and its places differ from px to px
_JPEGS = 0.3  # 1/255: a grid of 8 or 4 px that is fainter is taken for JPEG's
_UNEVEN = 2.2
_REGULAR = (16, 24, 32, 40, 48, 56, 64)  # px: what is nested in pitches of latents and tokens
_CERTAIN_COHERENCE, _CERTAIN_SKEW = 0.95, 0.1
_CERTAIN_LINES, _CERTAIN_WAVE = 4.5, 6.0  # 1/255: stronger straight lines, or a stronger smooth wave, may be drawn
_SMOOTH = 0.9  # share of the energy that a smooth wave has at its fundamental
_ON_AXES = 0.5  # share of the energy that lines down and across have
_TURNED = 0.9  # skew of a slanting pattern that no mirror leaves as it is


def limits_for(period: float, added: bool) -> Limits:
    """What a lattice of this period must show; `added`: on what the small picture does not explain."""
    if period in MACHINERY:
        limits = _ADDED_ON_GRID if added else _ON_GRID
        return replace(limits, strongest=2.0, at_two_px=0.003) if period == _UNPACKED else limits
    if period % _NESTED == 0:
        return _MULTIPLE
    return _WHOLE if period == round(period) else _BETWEEN


def _at(limit: tuple[float, float], amplitude: float) -> float:
    """The limit at this amplitude, of those at 1 and at 3/255."""
    faint, strong = limit
    return faint + (strong - faint) * min(1.0, max(0.0, (amplitude - 1) / 2))


def objection(period: float, amplitude: float, followed: Followed, residual: Tensor, added: bool) -> str:
    """Why this is no lattice, as the end of a sentence that begins with what repeats; empty where nothing objects.

    residual: high-passed luma (H, W) in 1/255, as `followed` was measured on. What costs most is asked last.
    """
    if not added and period > _LONG and period % _NESTED:
        return "that long a pitch is a model's only if it is a multiple of 8 px, unless the small picture tells"
    limits = limits_for(period, added)
    faintest = max(limits.faintest, _JPEGS if period in (4, 8) else 0)
    if amplitude < faintest:
        return f"that is fainter than {faintest:g}/255, below which this pitch is not judged"
    if amplitude > limits.strongest:
        return f"that is stronger than a model's lattice ({limits.strongest:g}/255): it is drawn in the picture"
    if _share_at_two_px(followed.lattice) < limits.at_two_px:
        return "it has nothing at 2 px, as what a network unpacks by 4 has: it is drawn in the picture"
    if followed.coherence < _at(limits.coherence, amplitude):
        return f"blocks disagree on its phase ({followed.coherence:.2f} of 1)"
    agreeing = agreement(followed.gain, followed.share, limits.everywhere)
    if agreeing < limits.agreeing:
        return f"only {agreeing:.0%} of the picture's parts have it alike"
    if followed.skew > _at(limits.skew, amplitude):
        return f"it runs more one way than the other ({followed.skew:.2f} of 1), and what a model leaves does not"
    if followed.skew > _TURNED and _share_on_axes(followed.lattice) < _ON_AXES:
        return "it is turned against the picture's sides, and what a model leaves is not"
    uneven = unevenness(residual, followed)
    if uneven > _UNEVEN:
        return f"it is {uneven:.1f} times stronger on things than beside them, so it belongs to them"
    return ""


def _share_at_two_px(lattice: Lattice) -> float:
    """Of the energy, what waves of 2 px down or across have."""
    return lattice.share(lattice.fy.abs().maximum(lattice.fx) > 0.49)


def _share_on_axes(lattice: Lattice) -> float:
    """Of the energy, what waves straight down or straight across have."""
    return lattice.share(lattice.fy.abs().minimum(lattice.fx) < lattice.frequency / 2)


def _share_of_the_fundamental(lattice: Lattice) -> float:
    """Of the energy, what waves of one period down, across or both have."""
    return lattice.share(lattice.fy.abs().maximum(lattice.fx) < 1.5 * lattice.frequency)


def is_certain(period: float, amplitude: float, followed: Followed) -> bool:
    """Whether a lattice that nothing objects to is beyond doubt without the small picture.

    It is a smooth wave or straight lines, not strong, has a multiple of 8 px to the px and one phase all over, and is
    like its mirror images. A drawn pattern seldom is.
    """
    if _share_of_the_fundamental(followed.lattice) > _SMOOTH:
        strongest = _CERTAIN_WAVE
    elif _share_on_axes(followed.lattice) > _ON_AXES:
        strongest = _CERTAIN_LINES
    else:
        return False
    if amplitude > strongest or period not in _REGULAR:
        return False
    sure = followed.coherence >= _CERTAIN_COHERENCE and followed.skew <= _CERTAIN_SKEW
    return sure and agreement(followed.gain, followed.share, everywhere=True) == 1
