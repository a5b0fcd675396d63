"""The folder of a run: one training at a time, with room for a checkpoint."""

import contextlib
import shutil
from pathlib import Path

from ..errors import OutputError, SettingError


class RunFolder:
    """Claims a folder for one training; the first process does it for all."""

    def __init__(self, path: Path, is_main: bool):
        from filelock import FileLock

        self.path = path
        self.is_main = is_main
        self._made = False
        self._lock = FileLock(path / ".lock") if is_main else None

    def claim(self) -> None:
        """Raises SettingError where another training holds it, OutputError where it cannot be written."""
        from filelock import Timeout

        if self._lock is None:
            return
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:  # before OSError, which it is one of
            raise SettingError(f"Another training works in {self.path}. Give another folder with -o.") from None
        except OSError as error:
            raise OutputError(f"Nothing can be written into {self.path}: {error.strerror or error}.") from error

    def release(self) -> None:
        """Lets go of it."""
        if self._lock is not None:
            self._lock.release()

    def discard(self) -> None:
        """A training that was refused leaves nothing behind."""
        if self.is_main and self._made:
            (self.path / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def check_room(self, learned: int) -> None:
        """Raises OutputError where a checkpoint of that many learned numbers would not fit on the disk."""
        if not self.is_main:
            return
        needed = 32 * learned  # weights, average, two moments, the adapters twice and again among the best; float32
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OutputError(
                f"A checkpoint takes about {needed / 1e6:.0f} MB and {self.path} has {free / 1e6:.0f} MB left. "
                "Make room, or give a folder on another disk with -o."
            )
