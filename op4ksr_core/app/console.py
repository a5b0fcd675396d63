"""Progress on a terminal."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..files import printable
from ..progress import Progress

if TYPE_CHECKING:
    from .batch import Job, Result

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP: like Ctrl-C, with its own exit code."""

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the number of the signal that stopped the run."""
    return getattr(stop, "exit_code", INTERRUPTED)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Stopped: locks and half-written files are removed, summaries written."""

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """A line on standard output. Where its reader is gone (`| head`), nothing more is printed and the work goes on."""
    try:
        print("\n".join(printable(line) for line in text.split("\n")), flush=True)
    except (BrokenPipeError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        complain(f"Standard output takes no more: {error.strerror or error}; the work goes on.")


def complain(text: str) -> None:
    """A line on standard error; nothing where that is closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print("\n".join(printable(line) for line in text.split("\n")), file=sys.stderr, flush=True)


class PlainFormatter(logging.Formatter):
    """Log lines without what a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


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


@contextmanager
def bar_with_lines(unit: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Gives a `report(done, total)` of a bar on standard error, silent where that is no terminal, and a `say` whose
    lines stand above the bar."""
    from tqdm import tqdm

    with tqdm(total=0, unit=unit, disable=None) as bar:

        def report(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        def above(text: str) -> None:
            bar.clear()
            say(text)
            bar.refresh()

        yield report, above


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
        self.pictures.clear()
        say(printable(f"{line}: {detail}" if detail else line))
        self.pictures.update()
