"""Work shared by processes of one core each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch

Job = TypeVar("Job")
Done = TypeVar("Done")


def spread(function: Callable[[Job], Done], jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    """What `function` gives for each job, in order; here if `workers` is 1, else in so many processes.

    An exception ends it: what has not begun is not begun.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), single_thread) as pool:
        try:
            for future in [pool.submit(function, job) for job in jobs]:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def single_thread() -> None:
    """One core for each of many processes."""
    torch.set_num_threads(1)
