"""A node's progress bar, and cancelling."""

import comfy.model_management
import comfy.utils

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
