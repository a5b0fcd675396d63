"""A node's progress bar, and cancelling."""

from collections.abc import Sequence

import comfy.model_management
import comfy.utils
from torch import Tensor

from ..op4ksr_core.geometry import Size
from ..op4ksr_core.picture.convert import as_picture
from ..op4ksr_core.picture.resample import resize
from ..op4ksr_core.progress import Progress


def make_report() -> Progress:
    """A progress callback that moves the node's bar and raises when the run was cancelled."""
    bar: comfy.utils.ProgressBar | None = None

    def report(phase: str, done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        if bar is None or bar.total != total:
            bar = comfy.utils.ProgressBar(total)
        bar.update_absolute(done)

    return report


SHARES = {"encode": 0.25, "transform": 0.15, "decode": 0.45, "compensate": 0.15}
"""Of the bundled model's time at 4096x4096 on two cores, roughly; a large transformer takes more of it on a CPU."""

_PREVIEW_SIDE = 512


class Phases:
    """One bar over the phases of a picture, by their shares of the time, with small pictures on the way."""

    def __init__(self, without: Sequence[str] = ()):
        shares = {phase: share for phase, share in SHARES.items() if phase not in without}
        self._start, self._share, total = {}, shares, 0.0
        for phase, share in shares.items():
            self._start[phase] = total
            total += share
        self._total, self._at = total, 0
        self._bar = comfy.utils.ProgressBar(1000)

    def __call__(self, phase: str, done: int, total: int) -> None:
        """The progress callback. The bar never goes back, also where a phase begins again (windows, a second try)."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        reached = self._start[phase] + self._share[phase] * done / total
        self._at = max(self._at, round(1000 * reached / self._total))
        self._bar.update_absolute(self._at)

    def show(self, picture_bchw: Tensor) -> None:
        """A preview of the first picture, at most 512 px a side."""
        first = picture_bchw[:1].float()
        factor = min(1.0, _PREVIEW_SIDE / max(first.shape[-2:]))
        small = resize(first, Size(*(max(1, round(side * factor)) for side in first.shape[-2:])))
        self._bar.update_absolute(self._at, preview=("JPEG", as_picture(small[0]), _PREVIEW_SIDE))

    def finish(self) -> None:
        """All phases are done."""
        self._bar.update_absolute(1000)


class Parts:
    """One bar over several parts of about equal time: each watched phase is a part, and so is each `step`."""

    def __init__(self, count: int):
        self._bar, self._count, self._finished = comfy.utils.ProgressBar(100 * count), count, -1

    def __call__(self, phase: str, done: int, total: int) -> None:
        """The progress callback of a phase; its first call begins a part."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if done == 0:
            self._finished = min(self._finished + 1, self._count - 1)
        self._bar.update_absolute(round(100 * (self._finished + done / total)))

    def step(self, phase: str) -> None:
        """A part that reports nothing by itself begins."""
        self(phase, 0, 1)

    def finish(self) -> None:
        """All parts are done."""
        self._bar.update_absolute(100 * self._count)
