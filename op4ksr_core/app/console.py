"""Progress on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..progress import Progress

if TYPE_CHECKING:
    from .batch import Job, Result

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_BAR = "{desc:32.32}{bar} {percentage:3.0f}%"


@contextmanager
def picture_bar(title: str = "") -> Iterator[Callable[[int, int], None]]:
    """Gives a `report(done, total)`; silent where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(total=0, unit="picture", desc=title or None, disable=None) as bar:

        def report(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield report


class Display:
    """Two bars on a terminal, pictures and the phases of the present one; plain lines elsewhere."""

    def __init__(self, count: int):
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        self.pictures = tqdm(total=count, unit="picture", disable=quiet, position=0)
        self.blocks = tqdm(total=1, disable=quiet, position=1, leave=False, bar_format=_BAR)

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self.blocks.close()
        self.pictures.close()

    def start(self, job: "Job") -> Progress:
        def report(phase: str, done: int, total: int) -> None:
            self.blocks.set_description_str(f"{job.source.name} {phase}", refresh=False)
            self.blocks.total, self.blocks.n = total, done
            self.blocks.refresh()

        return report

    def finish(self, result: "Result") -> None:
        detail = result.error or "; ".join(result.notes)
        sizes = f" {result.source_size} -> {result.target_size}" if result.target_size else ""
        line = f"{result.status} {result.source} -> {result.output}{sizes} {result.seconds:.1f} s"
        self.pictures.write(f"{line}: {detail}" if detail else line)
        self.pictures.update()
