"""The check of a result: whether the model added a lattice, or texture in soft areas, and whether that is too much."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..declared import check, setting
from ..lattice.inspector import Inspection, inspect_made, worst
from ..lattice.report import in_a_few_words, mesh_map
from ..picture.framing import set_into
from ..settings import UpscaleSettings, with_strength
from .composite import Framed

SMALLEST = 64
"""px; what is smaller in the result is not checked."""

RERUN_STRENGTH = 0.5
"""Of a rerun, times that of the first run."""


@dataclass(frozen=True)
class Limits:
    """What a result may have and still pass. Raises SettingError on a value out of range."""

    max_score: float = setting(
        0.5, "Lattice score up to which a result passes; below 0.5 nobody can see it.", low=0, high=1, step=0.05
    )

    max_texture: float = setting(
        0.0, "Texture in soft areas up to which a result passes, per mille of them.", low=0, high=1000, step=0.5
    )

    def __post_init__(self) -> None:
        check(self)

    def passes(self, found: Inspection) -> bool:
        """Whether what the inspector found is within them. A mesh too small to be reported counts as none."""
        lattice = found.score if found.verdict == "lattice" else 0.0
        texture = found.mesh.per_mille if found.mesh.found else 0.0
        return lattice <= self.max_score and texture <= self.max_texture


@dataclass(frozen=True)
class Check:
    """passed: all pictures are within the limits; words: the worst of them in a few words; maps: where texture was
    drawn into soft areas, (B, H, W) in [0, 1] of the result's size; rerun: the result is a second run's."""

    passed: bool
    words: str
    maps: Tensor
    rerun: bool = False


def check_made(made: Framed, limits: Limits | None = None) -> Check:
    """Judges what was added to the small pictures. A result shorter than SMALLEST px passes unchecked, and the words
    say so."""
    limits = limits or Limits()
    pictures, canvas = made.enlarged.float().cpu(), made.rgb.shape[-2:]
    if min(pictures.shape[-2:]) < SMALLEST:
        return Check(True, "too small for a lattice check", torch.zeros(1, 1, 1).expand(len(pictures), *canvas))
    found = [inspect_made(x, y) for x, y in zip(pictures, made.lr.float().cpu(), strict=True)]
    maps = torch.stack([mesh_map(one.mesh, pictures.shape[-2:]) for one in found])
    one = worst(found)
    basis = ", judged on what was added" if one.referenced else f". {one.note}"
    return Check(
        all(limits.passes(each) for each in found),
        in_a_few_words(one) + basis,
        set_into(maps[:, None], made.frame)[:, 0],
    )


def run_checked(
    enlarge: Callable[[UpscaleSettings], Framed],
    settings: UpscaleSettings,
    limits: Limits | None,
    rerun: bool = False,
    keep: Callable[[Framed], None] = lambda made: None,
) -> tuple[Framed, Check | None]:
    """`enlarge(settings)` and its check, None without limits; where that does not pass, and `rerun` is on, once more at
    half the strength.

    `keep` gets the result that stays, once: in a thread of its own, beside its check, where no rerun can follow. All
    pictures of a batch are run again together, so that they stay alike. The seed, and with it the noise, stays.
    """
    made = enlarge(settings)
    if limits is None:
        keep(made)
        return made, None
    if not rerun:
        return made, _check_beside(made, limits, keep)
    first = check_made(made, limits)
    if first.passed:
        keep(made)
        return made, first
    made = enlarge(with_strength(settings, RERUN_STRENGTH))
    note = f"Run again at {RERUN_STRENGTH:g} times the strength, since the first result had: {first.words.rstrip('.')}."
    return replace(made, notes=(note, *made.notes)), replace(_check_beside(made, limits, keep), rerun=True)


def _check_beside(made: Framed, limits: Limits, keep: Callable[[Framed], None]) -> Check:
    """The check, while `keep` works: both take one core for seconds."""
    with ThreadPoolExecutor(1) as pool:
        kept = pool.submit(keep, made)
        checked = check_made(made, limits)
        kept.result()
    return checked
