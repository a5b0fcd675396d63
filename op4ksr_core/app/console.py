"""A progress bar on stderr that counts pictures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def picture_bar(title: str = "") -> Iterator[Callable[[int, int], None]]:
    """Gives a `report(done, total)`; silent where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(total=0, unit="picture", desc=title or None, disable=None) as bar:

        def report(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield report
