"""Files on disk: which pictures there are, and writing that leaves a file whole or not at all. No torch."""

import contextlib
import glob
import json
import logging
import math
import os
import stat
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError, SettingError
from .formats import READABLE, WRITABLE, Format, written_as

_UNREAD = frozenset(
    ".heic .heif .hif .avif .jxl .jp2 .j2k .jpf .jpx .jxr .wdp .apng .mpo .psd .psb .xcf .kra .exr .hdr .tga .dds .pcx "
    ".ppm .pgm .pbm .pnm .pam .pfm .qoi .ico .icns .svg .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 "
    ".rwl .pef .srw .3fr .fff .iiq .x3f .raw .erf .kdc .dcr .mos .mrw .gpr".split()
) - set(READABLE)
"""Suffixes of pictures that are not read."""

_NO_FOLDERS = _UNREAD | frozenset(
    ".pdf .eps .ai .txt .lst .csv .json .jsonl .html .md .zip .7z .npy .mp4 .mov .mkv .webm .avi .safetensors".split()
)
"""Suffixes that a file has, and hardly a folder."""

_SYSTEM_FOLDERS = frozenset({"@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information"})
_LONG_NAME = 200
MAX_NAME, MAX_PATH = 255, 4096
"""Bytes of a file's name and of a path, at most."""

MAX_SHOWN = 400
"""Characters of a name that an error repeats."""

LISTS = (".txt", ".lst")

log = logging.getLogger("op4ksr")


@dataclass(frozen=True)
class Found:
    """A picture file, and its place below the folder that was named (its own name where it was named itself)."""

    path: Path
    place: Path


@dataclass
class Search:
    """What a folder and its subfolders hold: pictures, sorted, and what is left out, by kind."""

    pictures: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)

    def sentence(self) -> str:
        """What is left out, counted and named by kind; nothing where that is nothing."""
        parts = []
        if self.unread:
            counts = Counter(path.suffix.lower() for path in self.unread)
            kinds = ", ".join(f"{suffix} {counts[suffix]}" for suffix in sorted(counts))
            parts.append(f"{len(self.unread)} in formats that are not read ({kinds}: {_few(self.unread)})")
        if self.hidden:
            parts.append(f"{len(self.hidden)} hidden or made by a system ({_few(self.hidden)})")
        if self.loops:
            parts.append(f"{len(self.loops)} linked folders that lead back ({_few(self.loops)})")
        return "; ".join(parts)


def find_pictures(
    inputs: Sequence[str | Path], outside: Path | None = None, unread: list[Path] | None = None
) -> list[Found]:
    """The picture files that the inputs name, in order; a file named twice comes twice.

    An input is a folder (searched through), a file, a glob pattern, or a list: a text file with a path per line,
    relative to the list. Folders leave out what lies below `outside`; what else they leave out is logged, and pictures
    in formats that are not read go into `unread`. Raises SettingError where an input names nothing, or all of them hold
    no picture.
    """
    if not all(str(text).strip() for text in inputs):
        raise SettingError("An input is empty: name a picture, a folder, a pattern or a list.")
    left: list[Path] = [] if unread is None else unread
    found = [one for text in inputs for one in _expand(at_home(text), outside, left)]
    if not found:
        raise SettingError(f"No picture found in {', '.join(map(str, inputs))} (looked for {', '.join(READABLE)}).")
    return found


def _expand(path: Path, outside: Path | None, unread: list[Path]) -> Iterator[Found]:
    if _is_dir(path):
        yield from _in_folder(path, outside, unread)
    elif path.suffix.lower() in LISTS and path.is_file():
        for line in read_lines(path):
            if line.strip():
                yield Found(path.parent / line.strip(), Path(Path(line.strip()).name))
    elif os.path.lexists(path):
        yield Found(path, Path(path.name))
    else:
        yield from _matches(path, outside, unread)


def _in_folder(folder: Path, outside: Path | None, unread: list[Path]) -> Iterator[Found]:
    search = search_folder(folder, outside)
    unread += search.unread
    for file in search.pictures:
        yield Found(file, file.relative_to(folder) if file != folder else Path(file.name))


def _matches(pattern: Path, outside: Path | None, unread: list[Path]) -> Iterator[Found]:
    """Files that match, and what folders hold that match; `**` matches what they hold by itself."""
    matches = [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]
    if not matches:
        raise SettingError(f"There is no file, folder or match for {pattern}.")
    for match in matches:
        if not _is_dir(match):
            yield Found(match, Path(match.name))
        elif "**" not in pattern.parts:
            yield from _in_folder(match, outside, unread)


def at_home(text: str | Path) -> Path:
    """A path with `~` filled in; an unknown user's is left as it is. Raises SettingError on a name that no file has."""
    name = str(text)
    if "\0" in name:
        raise SettingError(f"A file's name has no null character in it, got {name[:40]!r}.")
    longest = max(len(os.fsencode(part)) for part in name.split("/"))
    if longest > MAX_NAME or len(os.fsencode(name)) > MAX_PATH:
        shown = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..."
        raise SettingError(f"A name of {len(name)} characters is longer than a file's can be: {shown}.")
    return Path(os.path.expanduser(text))  # noqa: PTH111, Path.expanduser raises


def _is_dir(path: Path) -> bool:
    """False also where the name is too long, or goes in circles."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_text(path: Path) -> str:
    """A text that a person or a program wrote: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises SettingError where it cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read as text in UTF-8: {error}.") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, as `read_text`."""
    return read_text(path).splitlines()


def pictures_below(folder: Path) -> list[Path]:
    """The pictures of `search_folder`."""
    return search_folder(folder).pictures


def search_folder(folder: Path, outside: Path | None = None) -> Search:
    """Looks through a folder and its subfolders; what is left out is logged.

    Pictures are everything that has a picture's suffix and is no folder. What is no file (a pipe, a broken link) is
    named all the same, and so is a folder that cannot be opened: whoever reads it says what is wrong with it. A linked
    folder is looked through once, and not where the folder itself lies in it. Left out are hidden files and folders,
    those that systems make, and the folder `outside`, by whatever path it is reached.
    """
    found = Search()
    closed: list[OSError] = []
    root = _place(folder)
    seen = {root}
    beside_it = _place(outside) if outside is not None else None
    for place, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _is_entered(Path(place, name), root, seen, beside_it, found)]
        for name in names:
            _sort_in(Path(place, name), found)
    found.pictures = sorted([*found.pictures, *(Path(error.filename) for error in closed if error.filename)])
    _log_left_out(str(folder), found.sentence())
    return found


def _is_entered(path: Path, root: Path, seen: set[Path], outside: Path | None, found: Search) -> bool:
    """Whether a subfolder is looked through."""
    if path.name.startswith(".") or path.name.lower() in _SYSTEM_FOLDERS:
        found.hidden.append(path)
        return False
    place = _place(path)
    if place == outside:
        return False
    if path.is_symlink() and (place == root or place in root.parents):
        found.loops.append(path)
        return False
    if place in seen or (path.is_symlink() and root in place.parents):
        return False  # it is looked through under its own name
    seen.add(place)
    return True


def _sort_in(path: Path, found: Search) -> None:
    suffix = path.suffix.lower()
    if suffix not in READABLE and suffix not in _UNREAD:
        return
    if path.name.startswith("."):
        found.hidden.append(path)
    elif suffix in READABLE:
        found.pictures.append(path)
    else:
        found.unread.append(path)


@lru_cache(maxsize=64)
def _log_left_out(folder: str, sentence: str) -> None:
    """Once for each folder, though a command may look through it twice."""
    if sentence:
        log.warning("%s: left out are %s.", folder, sentence)


def _few(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in sorted(paths)[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def is_folder_name(text: str) -> bool:
    """Whether an output may be a folder: it is one, ends with a separator, or has no suffix that files have."""
    path = at_home(text)
    return _is_dir(path) or text.endswith(("/", os.sep)) or path.suffix.lower() not in _NO_FOLDERS


def format_of(path: Path) -> Format:
    """The format that a file name asks for. Raises OutputError on an unknown suffix."""
    found = written_as(path.suffix.lower())
    if found is None:
        suffixes = ", ".join(suffix for one in WRITABLE.values() for suffix in one.suffixes)
        raise OutputError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {suffixes}.")
    return found


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
