"""One thread for the inspector and the suppressor.

Their steps are short. Beside other work on the same cores torch's threads spin while they wait for each other after
each of them: at 4096 px with the small picture, on two busy cores, two threads took 37 s of processor time and one
took 7.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Takes one of torch's threads, and gives the setting back."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
