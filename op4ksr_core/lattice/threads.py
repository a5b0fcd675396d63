"""How many threads the inspector takes: few, so that it does not wait for others' work."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PX_EACH = 4_000_000
"""px that make another thread worth its while: below, threads that wait for each other beside other work cost more."""


@contextmanager
def threads_for(px: int) -> Iterator[None]:
    """Takes as many of torch's threads as the picture is worth, and gives the setting back."""
    before = torch.get_num_threads()
    wanted = min(before, max(1, px // _PX_EACH))
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
