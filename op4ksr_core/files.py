"""Files on disk: which pictures there are, and writing that leaves a file whole or not at all. No torch."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError, SettingError

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
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
    found = [one for text in inputs for one in _expand(Path(text).expanduser(), outside)]
    if not found:
        raise SettingError(f"No picture found in {', '.join(map(str, inputs))} (looked for {', '.join(READABLE)}).")
    return found


def _expand(path: Path, outside: Path | None) -> Iterator[Found]:
    if path.is_dir():
        for file in pictures_below(path):
            if outside is None or outside == path or outside not in file.parents:
                yield Found(file, file.relative_to(path))
    elif path.suffix.lower() in LISTS and path.is_file():
        for line in path.read_text("utf-8").splitlines():
            if line.strip():
                yield Found(path.parent / line.strip(), Path(Path(line.strip()).name))
    elif path.exists():
        yield Found(path, Path(path.name))
    else:
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise SettingError(f"There is no file, folder or match for {path}.")
        yield from (Found(match, Path(match.name)) for match in matches if match.is_file())


def pictures_below(folder: Path) -> list[Path]:
    """Every picture file in a folder and its subfolders, sorted; hidden files are left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in READABLE and path.name[0] != ".")
    return sorted(path for path in files if path.is_file())


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
        except OSError as error:
            raise OutputError(f"Nothing can be written into {folder}: {error.strerror or error}.") from error


def check_targets(targets: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
    """Before any work: each file that will be written has a writable folder and replaces no input and no other target.

    Devices such as /dev/null are fine. Raises OutputError.
    """
    taken = {path.resolve(): f"replace the input {path}" for path in inputs}
    for target in targets:
        if target.is_dir():
            raise OutputError(f"{target} is a folder; name a file.")
        place = target.resolve()
        if place in taken:
            raise OutputError(f"Writing {target} would {taken[place]}. Name another file.")
        if not _is_device(target):
            taken[place] = f"replace another result of this run, {target}"
    check_folders([target for target in targets if not _is_device(target)])


def _is_device(path: Path) -> bool:
    """Whether something other than a file or folder is there: a device or a pipe, which is written to as it is."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a file beside `path` and moves it there once it is whole and on disk.

    A link's target is written, and a device or pipe directly. Raises OutputError with the reason (no space, no
    permission); the half-written file is removed.
    """
    if _is_device(path):
        _write_directly(path, write)
        return
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_directly(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with path.open("wb") as file:
            write(file)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises OutputError."""
    write_atomically(path, lambda file: file.write(text.encode()))
