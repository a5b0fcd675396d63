"""Work shared by processes of one core each, or by Ray. No torch until a process starts."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from .errors import SettingError

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
    import torch

    torch.set_num_threads(1)


def ray_data() -> Any:
    """The module `ray.data`; starts a local Ray unless one runs already. Raises SettingError with what to install."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SettingError("The engine ray is not installed: pip install 'op4ksr[ray]'.") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data
