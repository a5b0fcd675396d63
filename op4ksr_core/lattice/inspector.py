"""The periodicity inspector: is there a lattice in the picture, of what period, how strong, where; and is there a mesh.

A decoder or a one-step transformer can leave a faint pattern that repeats every P px over the whole picture
(OP4KSR, arXiv 2605.13457, figures 2 and 6). Against a photo it has three marks: its energy sits on exact multiples
(k/P, l/P) of one frequency, it keeps its phase over unrelated regions, and it is there in flat areas too. So:

1. luma, high-passed, less what the small picture explains where that is known (`reference.py`), each pixel weighted by
   1 / (local variance + 1): flat areas speak, edges and textures hardly do;
2. its spectrum over a local background (geometric mean of the neighbourhood, along the axes for the axes);
3. the comb: for every period, how far the points that belong to it stand above chance (`periods.py`);
4. demodulation in blocks at the points that stand out: the lattice's amplitude and phase everywhere (`waves.py`);
5. what tells a lattice from things that repeat: pitch, amplitude, agreement of the parts (`evidence.py`);
6. texture where the small picture is soft, periodic or not (`mesh.py`).
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import ImageError, SettingError
from .autocorrelation import LAGS, autocorrelation, quadrants
from .evidence import MACHINERY, is_certain, objection
from .mesh import Mesh, find_mesh, no_mesh
from .periods import CERTAIN, JPEG, candidates, find_periods, repeat_of_texture, statistic_of, suspect_decibels
from .reference import Added, added_to, enlarge
from .spectrum import LONGEST, SHORTEST, luma255, spectrum, whitened
from .suppress import DOUBTFUL
from .threads import one_thread
from .waves import Followed, Lattice, block_size, demodulate, measure, peak_points, refined

_PERIODS_WANTED = 8  # periods that the shorter side must hold for a search
_VISIBLE = 0.35  # amplitude in 1/255 at which the score is one half
_KEPT, _SHARED = (0.6, 1.0), (0.75, 0.08)
"""A pattern is the small picture's own at this coherence and this share of the added amplitude: of one that is stronger
there, and of one that is mostly new, as a line is that is thinner than a px of the small picture."""
_MULTIPLES = (2, 3, 4)  # of a period, at which a pattern of the picture's own may have its fundamental
_EXACT, _STRONGER = 0.01, 4.0  # how near to a multiple, and how much stronger, that is without the small picture
_FINE = 0.9  # share of the energy that the small picture cannot hold
_TRACE = 0.05  # amplitude in 1/255 below which nothing is reported
_FAINT = 0.5  # amplitude in 1/255 from which something that repeats is called a texture


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
    one. heat: (blocks down, blocks across), amplitude in 1/255. referenced: whether the verdict is on what was added to
    a reference; note: what there is to say of the reference. mesh: texture in soft areas.
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
    referenced: bool = False
    note: str = ""
    mesh: Mesh = field(default_factory=no_mesh)


def inspect(
    image_chw: Tensor,
    reference_chw: Tensor | None = None,
    suspects: Sequence[int] = (8, 16, 32),
    search: bool = True,
    with_ap_loss: bool = True,
) -> Inspection:
    """Looks for a lattice and a mesh in one picture (1, 3 or 4, H, W) in [0, 1]; alpha is left out.

    `reference_chw`, (1, 3 or 4, h, w) in [0, 1], is the small picture that this one was enlarged from, or its plain
    enlargement: then only what was added is judged. Without it the verdict is weaker, and says so. `suspects` are the
    periods whose strength is reported, in px; with `search` off they are the only ones that can be found; L_AP against
    the reference is measured `with_ap_loss`. Raises ImageError on NaN, a picture shorter than 2 periods or 32 px, or a
    reference that shows something else, is larger, turned, or of another aspect; SettingError on a period outside
    4..128 px.
    """
    luma = luma255(image_chw)
    _check(luma, suspects)
    with one_thread(), ThreadPoolExecutor(1) as beside:
        found = _inspect(luma, reference_chw, suspects, search, beside)
        return replace(found, ap_loss=_ap_loss(luma, reference_chw)) if with_ap_loss else found


def _inspect(
    luma: Tensor, reference_chw: Tensor | None, suspects: Sequence[int], search: bool, beside: Executor
) -> Inspection:
    added = None if reference_chw is None else added_to(luma, reference_chw)
    note = "" if added is None else added.note
    if reference_chw is not None and added is None:
        note = "The reference is the picture itself: it tells nothing, and the picture is judged alone."
    mesh = beside.submit(find_mesh, luma, None if added is None else added.enlarged)
    residual, weight = whitened(luma) if added is None else (added.residual, added.weight)
    ratio = spectrum(residual, weight)
    longest = min(LONGEST, min(luma.shape) // _PERIODS_WANTED)
    if search:
        periods, statistic = find_periods(ratio, luma.shape, longest)
    else:
        statistic = {float(p): statistic_of(ratio, luma.shape, 1 / p) for p in suspects}
        periods = candidates(ratio, luma.shape, statistic)
    found = _foremost(periods, residual, weight, ratio, added)
    texture = repeat_of_texture(residual, min(LONGEST, min(luma.shape) // 2 - 2))
    best = max(statistic.values(), default=0.0)
    verdict, reason = _verdict(found, texture, best)
    if float(luma.max() - luma.min()) == 0:
        reason = "The picture is of one colour: there is nothing in it to inspect."
        best = CERTAIN
    lattice = found if verdict == "lattice" else None
    amplitude = lattice.amplitude if lattice else 0.0
    certainty = best**2 / (best**2 + CERTAIN**2)
    grid = is_jpeg_grid(luma)
    if grid and lattice and lattice.period == JPEG:
        reason = f"This is JPEG's block grid. {reason}"
    coherence = found.followed.coherence if found else 0.0
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
        autocorrelation=_autocorrelation(luma) if min(luma.shape) // 2 > max(LAGS) else None,
        ap_loss=None,
        heat=lattice.followed.heat if lattice else torch.zeros(1, 1),
        spectrum=ratio,
        lattice=lattice.followed.lattice if lattice else None,
        referenced=added is not None,
        note=note,
        mesh=mesh.result(),
    )


def inspect_made(image_chw: Tensor, small_chw: Tensor, suspects: Sequence[int] = (8, 16, 32)) -> Inspection:
    """`inspect` for a picture that was just made from this small one, without L_AP: where the small one cannot be used,
    the note says why.

    A result smaller than its source, for one, cannot be judged by it. Raises ImageError where the picture itself cannot
    be inspected.
    """
    try:
        return inspect(image_chw, small_chw, suspects, with_ap_loss=False)
    except ImageError as error:
        alone = inspect(image_chw, suspects=suspects)
        return replace(alone, note=f"The small picture could not be used, so the large one is judged alone. {error}")


def worst(found: Sequence[Inspection]) -> Inspection:
    """Of a batch: the highest score, then the most texture in soft areas."""
    return max(found, key=lambda one: (one.score, one.mesh.found, one.mesh.per_mille))


def ap_loss(image_chw: Tensor, truth_chw: Tensor) -> float | None:
    """L_AP of luma against a ground truth of any size, enlarged to the picture's; None where pictures are too small."""
    return _ap_loss(luma255(image_chw), truth_chw)


def _told_period(verdict: str, found: "_Found | None", texture: tuple[float, int]) -> float:
    """A lattice's period; a texture's, which its repeat tells better; else 0."""
    if verdict == "clean":
        return 0.0
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
    """A period, the waves that stand out at it, and what objects to their being a lattice; empty where nothing does."""

    period: float
    followed: Followed
    amplitude: float
    peaks: tuple[Peak, ...]
    objection: str


def _judged(residual: Tensor, weight: Tensor, ratio: Tensor, period: float, added: Added | None) -> _Found | None:
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
    if not against and (tells or is_certain(exact, followed)):
        followed = replace(followed, lattice=replace(followed.lattice, certain=True))
    return _Found(exact, followed, amplitude, peaks, against)


def _is_finer(added: Added, followed: Followed) -> bool:
    """Whether the small picture cannot hold these waves, and so does not tell whose they are."""
    power = followed.lattice.amplitude.abs().square()
    return bool(power[~_coarse(added, followed)].sum() >= _FINE * power.sum())


def _coarse(added: Added, followed: Followed) -> Tensor:
    """Which of the waves the small picture can hold."""
    lattice, small_px = followed.lattice, math.sqrt(added.luma.numel() / added.small.numel())
    return lattice.fy.abs().maximum(lattice.fx) <= 0.5 / small_px


def _in_the_small_picture(added: Added, followed: Followed) -> str:
    """The objection that the small picture has this pattern itself, by those of its waves that it can hold."""
    lattice, held = followed.lattice, _coarse(added, followed)
    held = held if bool(held.any()) else torch.ones_like(held)
    fy, fx, kept = lattice.fy[held], lattice.fx[held], lattice.kept[held]
    local = demodulate(added.weight * added.explained, fy, fx, lattice.block)
    before = measure(added.explained, added.weight, lattice.frequency, fy, fx, kept + 2, local)
    strengths = [
        float(amplitude.abs().square().sum().sqrt())
        for amplitude in (before.lattice.amplitude, lattice.amplitude[held])
    ]
    for coherence, share in (_KEPT, _SHARED):
        if before.coherence > coherence and strengths[0] > share * strengths[1]:
            return "the small picture has it too"
    return ""


def _harmonic_of_the_small_picture(added: Added, followed: Followed) -> str:
    """The objection that these waves, which the small picture cannot hold, are harmonics of a pattern that it has."""
    found = float(followed.lattice.amplitude.abs().square().sum().sqrt())
    block = followed.lattice.block
    for multiple in _MULTIPLES:
        frequency = followed.lattice.frequency / multiple
        fy, fx = frequency * torch.tensor([[0.0, 1.0, 1.0, -1.0], [1.0, 0.0, 1.0, 1.0]])
        local = demodulate(added.weight * added.explained, fy, fx, block)
        before = measure(added.explained, added.weight, frequency, fy, fx, torch.full_like(fy, 2.0), local)
        strength = float(before.lattice.amplitude.abs().square().sum().sqrt())
        if before.coherence > _KEPT[0] and strength > found:
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


def _foremost(
    periods: Sequence[float], residual: Tensor, weight: Tensor, ratio: Tensor, added: Added | None
) -> _Found | None:
    """The likeliest that nothing objects to; else the strongest; None of none."""
    judged: list[_Found] = []
    for period in periods:
        one = _judged(residual, weight, ratio, period, added)
        if one is None:
            continue
        one = replace(one, objection=one.objection or _harmonic_of(one, judged) or _same_waves(one, judged))
        if not one.objection:
            return one
        judged.append(one)
    return max(judged, key=lambda one: one.amplitude, default=None)


def _harmonic_of(one: _Found, judged: Sequence[_Found]) -> str:
    """The objection that this is a harmonic of a far stronger pattern, which was judged to be no lattice."""
    for other in judged:
        multiple = other.period / one.period
        whole = round(multiple) in _MULTIPLES and abs(multiple - round(multiple)) < _EXACT
        if whole and other.amplitude > _STRONGER * one.amplitude:
            return f"it is a harmonic of what repeats every {other.period:.4g} px"
    return ""


def _same_waves(one: _Found, judged: Sequence[_Found]) -> str:
    """The objection to a pattern of a shorter period that this one's waves belong to."""
    lattice = one.followed.lattice
    power = lattice.amplitude.abs().square()
    for other in judged:
        turns = torch.stack([lattice.fy, lattice.fx]) * other.period
        belongs = ((turns - turns.round()).abs() < _EXACT).all(0)
        if other.period < one.period and power[belongs].sum() >= _FINE * power.sum():
            return other.objection
    return ""


def strongest_tenth(heat: Tensor, share: Tensor) -> float:
    """The amplitude that a tenth of the flat area reaches."""
    order = heat.flatten().argsort(descending=True)
    reached = share.flatten()[order].cumsum(0) / share.sum()
    return float(heat.flatten()[order][int((reached < 0.1).sum().clamp(max=len(order) - 1))])


def _verdict(found: _Found | None, texture: tuple[float, int], best: float) -> tuple[str, str]:
    """Verdict and its reason."""
    repeat = f"Luma repeats every {texture[1]} px (correlation {texture[0]:.2f}), as a fence, a wall or a fabric does."
    if found is None or (found.objection and found.amplitude < _TRACE):
        if texture[1]:
            return "texture", f"{repeat} No period keeps its phase over the flat areas."
        return "clean", (
            f"No period stands out by {_TRACE:g}/255 or more; the best comb is {best:.1f} (a lattice: {CERTAIN:g})."
        )
    where = f"period {found.period:.4g} px, amplitude {found.amplitude:.2f}/255 where it is strongest"
    if not found.objection:
        return "lattice", (
            f"A lattice of {where}: {len(found.peaks)} of its harmonics stand out, and blocks all over the picture "
            f"agree on its phase ({found.followed.coherence:.2f} of 1), flat areas included.{_doubt(found)}"
        )
    why = f"Something repeats with {where}, but {found.objection}."
    if found.amplitude >= _FAINT or texture[1]:
        return "texture", f"{why} {repeat if texture[1] else ''}".strip()
    return "clean", why


def _doubt(found: _Found) -> str:
    """What is held back of a lattice that may be drawn in the picture."""
    if found.followed.lattice.certain:
        return ""
    return (
        f" It may be the picture's own, so suppression changes {DOUBTFUL:g}/255 on average at most; give the small "
        "picture to have all of it taken."
    )


def _check(luma: Tensor, suspects: Sequence[int]) -> None:
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


def _ap_loss(luma: Tensor, reference_chw: Tensor | None) -> float | None:
    """L_AP of luma in [0, 1] against the enlarged reference; None without one, or where quadrants are too small."""
    if reference_chw is None or min(luma.shape) // 2 <= max(LAGS):
        return None
    a, b = (_autocorrelation(y) for y in (luma, enlarge(luma255(reference_chw), luma.shape)))
    return float((a - b).square().mean())


def _autocorrelation(luma: Tensor) -> Tensor:
    """(quadrants, 2, lags) of luma in [0, 1], a quadrant at a time."""
    return torch.stack([autocorrelation(quadrant / 255) for quadrant in quadrants(luma[None, None])[:, 0, 0]])
