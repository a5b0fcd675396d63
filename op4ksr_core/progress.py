"""Progress and cancelling, block by block, in any torch model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str, int, int], None]
"""(phase, blocks done, blocks in all). Raise from it to cancel; nothing is left half done."""


@contextmanager
def watch(blocks: "Sequence[nn.Module]", phase: str, report: Progress, rounds: int = 1) -> Iterator[None]:
    """Reports each finished block; an exception from the report ends the pass."""
    done, total = 0, len(blocks) * rounds

    def finished(*_: object) -> None:
        nonlocal done
        done += 1
        report(phase, done, total)

    report(phase, 0, total)
    hooks = [block.register_forward_hook(finished) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
