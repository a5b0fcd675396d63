"""The periodicity inspector: is there a lattice in the picture, of what period, how strong, where; and is there a mesh.

A decoder or a one-step transformer can leave a faint pattern that repeats every P px over the whole picture
(OP4KSR, arXiv 2605.13457, figures 2 and 6). Against a photo it has three marks: its energy sits on exact multiples
(k/P, l/P) of one frequency, it keeps its phase over unrelated regions, and it is there in flat areas too. So:

1. luma, high-passed, less what the small picture explains where that is known (`reference.py`), each pixel weighted by
   1 / (local variance + 1): flat areas speak, edges and textures hardly do;
2. its spectrum over a local background (geometric mean of the neighbourhood, along the axes for the axes);
3. the comb: for every period, how far the points that belong to it stand above chance (`periods.py`);
4. demodulation in blocks at the points that stand out: the lattice's amplitude and phase everywhere (`waves.py`);
5. what tells a lattice from things that repeat: pitch, amplitude, agreement of the parts, and what the small picture
   has itself (`judging.py`, `evidence.py`);
6. texture where the small picture is soft, periodic or not (`mesh.py`).
"""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import ImageError, SettingError
from .autocorrelation import LAGS, autocorrelation, quadrants
from .judging import Found, Peak, foremost
from .mesh import Mesh, find_mesh, no_mesh
from .periods import CERTAIN, JPEG, candidates, find_periods, repeat_of_texture, statistic_of, suspect_decibels
from .reference import added_to, enlarge
from .spectrum import LONGEST, SHORTEST, luma255, spectrum, whitened
from .suppress import DOUBTFUL
from .threads import one_thread
from .waves import Lattice

_PERIODS_WANTED = 8  # periods that the shorter side must hold for a search
_VISIBLE = 0.35  # amplitude in 1/255 at which the score is one half
_TRACE = 0.05  # amplitude in 1/255 below which nothing is reported
_FAINT = 0.5  # amplitude in 1/255 from which something that repeats is called a texture


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
        note = "The reference is the picture itself: it tells nothing, and the picture is judged by itself."
    mesh = beside.submit(find_mesh, luma, None if added is None else added.enlarged)
    residual, weight = whitened(luma) if added is None else (added.residual, added.weight)
    ratio = spectrum(residual, weight)
    longest = min(LONGEST, min(luma.shape) // _PERIODS_WANTED)
    if search:
        periods, statistic = find_periods(ratio, luma.shape, longest)
    else:
        statistic = {float(p): statistic_of(ratio, luma.shape, 1 / p) for p in suspects}
        periods = candidates(ratio, luma.shape, statistic)
    found = foremost(periods, residual, weight, ratio, added)
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


SMALLER = "The result is smaller than its source, so it is judged by itself."
"""The note on such a result."""


def inspect_made(image_chw: Tensor, small_chw: Tensor, suspects: Sequence[int] = (8, 16, 32)) -> Inspection:
    """`inspect` for a picture that was just made from this small one, without L_AP: where the small one cannot be used,
    the note says why.

    A result smaller than its source, for one, cannot be judged by it. Raises ImageError where the picture itself cannot
    be inspected.
    """
    if image_chw.shape[-2] < small_chw.shape[-2] or image_chw.shape[-1] < small_chw.shape[-1]:
        return replace(inspect(image_chw, suspects=suspects), note=SMALLER)
    try:
        return inspect(image_chw, small_chw, suspects, with_ap_loss=False)
    except ImageError as error:
        alone = inspect(image_chw, suspects=suspects)
        return replace(alone, note=f"The small picture is of no use, so the large one is judged by itself. {error}")


def worst(found: Sequence[Inspection]) -> Inspection:
    """Of a batch: the highest score, then the most texture in soft areas."""
    return max(found, key=lambda one: (one.score, one.mesh.found, one.mesh.per_mille))


def ap_loss(image_chw: Tensor, truth_chw: Tensor) -> float | None:
    """L_AP of luma against a ground truth of any size, enlarged to the picture's; None where pictures are too small."""
    return _ap_loss(luma255(image_chw), truth_chw)


def _told_period(verdict: str, found: Found | None, texture: tuple[float, int]) -> float:
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


def _verdict(found: Found | None, texture: tuple[float, int], best: float) -> tuple[str, str]:
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


def _doubt(found: Found) -> str:
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
