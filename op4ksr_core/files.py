"""Files on disk: which pictures there are, and writing that leaves a file whole or not at all. No torch."""

import contextlib
import glob
import json
import math
import os
import stat
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError, SettingError

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_LONG_NAME = 200
LISTS = (".txt", ".lst")
FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""Formats that can be written, with the suffix of a new file."""

_FORMAT_OF = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}


@dataclass(frozen=True)
class Found:
    """A picture file, and its place below the folder that was named (its own name where it was named itself)."""

    path: Path
    place: Path


def find_pictures(inputs: Sequence[str | Path], outside: Path | None = None) -> list[Found]:
    """The picture files that the inputs name, in order; a file named twice comes twice.

    An input is a folder (searched through), a file, a glob pattern, or a list: a text file with a path per line,
    relative to the list. Folders leave out what lies below `outside`. Raises SettingError where an input names nothing,
    or all of them hold no picture.
    """
    if not all(str(text).strip() for text in inputs):
        raise SettingError("An input is empty: name a picture, a folder, a pattern or a list.")
    found = [one for text in inputs for one in _expand(at_home(text), outside)]
    if not found:
        raise SettingError(f"No picture found in {', '.join(map(str, inputs))} (looked for {', '.join(READABLE)}).")
    return found


def _expand(path: Path, outside: Path | None) -> Iterator[Found]:
    if _is_dir(path):
        for file in pictures_below(path):
            if outside is None or outside == path or outside not in file.parents:
                yield Found(file, file.relative_to(path) if file != path else Path(file.name))
    elif path.suffix.lower() in LISTS and path.is_file():
        for line in read_lines(path):
            if line.strip():
                yield Found(path.parent / line.strip(), Path(Path(line.strip()).name))
    elif os.path.lexists(path):
        yield Found(path, Path(path.name))
    else:
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise SettingError(f"There is no file, folder or match for {path}.")
        yield from (Found(match, Path(match.name)) for match in matches if match.is_file())


def at_home(text: str | Path) -> Path:
    """A path with `~` filled in; an unknown user's is left as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111, Path.expanduser raises


def _is_dir(path: Path) -> bool:
    """False also where the name is too long, or goes in circles."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_lines(path: Path) -> list[str]:
    """Lines of a text file. Raises SettingError where it cannot be read, or is no text."""
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read as text in UTF-8: {error}.") from error


def pictures_below(folder: Path) -> list[Path]:
    """Everything in a folder and its subfolders that has a picture's suffix and is no folder, sorted.

    Hidden files are left out. What is no file (a pipe, a broken link) is named all the same, and so is a folder that
    cannot be opened: whoever reads it says what is wrong with it.
    """
    found: list[Path] = []
    closed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=closed.append):
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in READABLE and name[0] != "."]
    return sorted([*found, *(Path(error.filename) for error in closed if error.filename)])


def format_of(path: Path) -> str:
    """The format that a file name asks for. Raises OutputError on an unknown suffix."""
    try:
        return _FORMAT_OF[path.suffix.lower()]
    except KeyError:
        raise OutputError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {', '.join(_FORMAT_OF)}."
        ) from None


def check_folders(outputs: Sequence[Path]) -> None:
    """Makes the folders of the output files and proves that each can be written. Raises OutputError."""
    for folder in sorted({output.parent for output in outputs}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or error
            raise OutputError(f"Nothing can be written into {folder}: {why}.") from error


def check_targets(targets: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
    """Before any work: each file that will be written has a writable folder and replaces no input and no other target.

    Devices such as /dev/null are fine. Raises OutputError.
    """
    inputs = list(inputs)
    taken = {_place(path): f"replace the input {path}" for path in inputs}
    folders = {_place(parent) for target in targets for parent in target.parents}
    for target in targets:
        try:
            if target.is_dir():
                raise OutputError(f"{target} is a folder; name a file.")
            target.exists()
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
        place = _place(target)
        if place in folders:
            raise OutputError(f"{target} is the folder of other results; name a file.")
        if _is_pipe(target):
            _open_pipe(target).close()
        if place in taken:
            raise OutputError(f"Writing {target} would {taken[place]}. Name another file.")
        if not _is_device(target):
            taken[place] = f"replace another result of this run, {target}"
    check_folders([target for target in targets if not _is_device(target)])


def _place(path: Path) -> Path:
    """Where a path leads; the path itself where links go in circles."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return Path(os.path.abspath(path))  # noqa: PTH100


def _is_device(path: Path) -> bool:
    """Whether something other than a file or folder is there: a device or a pipe, which is written to as it is."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def is_same_file(a: Path, b: Path) -> bool:
    """Whether both names lead to one file, also by links; False where one of them is not there."""
    try:
        return a.samefile(b)
    except (OSError, RuntimeError):
        return False


def beside(path: Path, suffix: str) -> Path:
    """A hidden companion `.NAME<suffix>` in the same folder; of a long name only its start and a number from it."""
    name = path.name
    if len(os.fsencode(name)) > _LONG_NAME:
        name = f"{name[:40]}~{zlib.crc32(os.fsencode(name)):08x}"
    return path.with_name(f".{name}{suffix}")


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], compare: Callable[[Path], None] | None = None
) -> None:
    """Calls `write` with a file beside `path` and moves it there once it is whole and on disk.

    `compare` looks at the file before that and raises what keeps it from being moved. A link's target is written, and a
    device or pipe directly. Raises OutputError with the reason (no space, no permission); the half-written file is
    removed.
    """
    if _is_device(path):
        _write_directly(path, write)
        return
    path = _place(path) if path.is_symlink() else path
    temporary = beside(path, f".{os.getpid()}.part")
    remove_stale_parts(path)
    try:
        with temporary.open("wb") as file:
            _hold(file)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if compare is not None:
            compare(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_stale_parts(path: Path) -> None:
    """Removes what killed runs left half-written beside a file, where no process of this machine is at it any more."""
    for part in path.parent.glob(f"{glob.escape(beside(path, '').name)}.*.part"):
        number = part.name.split(".")[-2]
        if not number.isdecimal() or _is_alive(int(number)):
            continue
        with contextlib.suppress(OSError), part.open("rb") as file:
            if _hold(file):
                part.unlink()


def _is_alive(process: int) -> bool:
    """Whether a process of that number runs on this machine."""
    import psutil

    return psutil.pid_exists(process)


def _hold(file: BinaryIO) -> bool:
    """Locks an open file for this process, so that others see that it is in work. False where another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_pipe(path: Path) -> bool:
    return _is_device(path) and stat.S_ISFIFO(path.stat().st_mode)


def _open_pipe(path: Path) -> BinaryIO:
    """A pipe that somebody reads. Raises OutputError instead of waiting for a reader."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)), "wb")
    except OSError as error:
        raise OutputError(f"{path} is a pipe that nobody reads ({error.strerror or error}).") from error


def _write_directly(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with _open_pipe(path) if _is_pipe(path) else path.open("wb") as file:
            if _is_pipe(path) and hasattr(os, "set_blocking"):
                os.set_blocking(file.fileno(), True)
            write(file)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises OutputError. What of a file's name is no UTF-8 is
    written as escapes."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def json_text(content: object) -> str:
    """JSON with a line per value. It has no NaN or infinity: those become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    """The text without what a terminal obeys: control and direction characters become escapes."""
    return "".join(c if _is_plain(c) else c.encode("unicode_escape").decode() for c in text)


def _is_plain(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character == "\u200d"
