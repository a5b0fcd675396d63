"""Which picture belongs to which ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingError
from ..files import at_home, pictures_below, read_lines
from ..formats import READABLE

BY_NAME, BY_ORDER = "name", "order"


@dataclass(frozen=True)
class Pair:
    """A picture and its ground truth, if there is one; `name` is the same for every method."""

    name: str
    picture: Path
    truth: Path | None


@dataclass(frozen=True)
class Method:
    """A method to be judged: what its rows are called, and its pairs."""

    name: str
    folder: Path
    pairs: tuple[Pair, ...]


def pictures_in(folder: str | Path) -> list[Path]:
    """All pictures below a folder (or that one file), in order. Raises SettingError where there is none."""
    path = at_home(folder)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SettingError(f"{path} is no folder and no picture.")
    found = pictures_below(path)
    if not found:
        raise SettingError(f"There is no picture in {path} (looked for {', '.join(READABLE)}).")
    return found


def pair_up(folder: str | Path, truth: str | Path | None, how: str = BY_NAME) -> list[Pair]:
    """The pairs of two folders.

    `how`: `name` (the file names without suffix are equal, or the picture's starts with the truth's: `a_sr.png` is
    the picture of `a.jpg`), `order` (sorted, as many here as there), or a text file with a picture and its truth per
    line, separated by a tab or, where there is none, by a space; paths are taken from the two folders. Raises
    SettingError that names what has no partner: nothing is left out.
    """
    if truth is None:
        root = at_home(folder)
        return [Pair(_name(path, root), path, None) for path in pictures_in(folder)]
    if how not in (BY_NAME, BY_ORDER):
        return _from_list(at_home(how), at_home(folder), at_home(truth))
    pictures, truths = pictures_in(folder), pictures_in(truth)
    root = at_home(truth)
    if how == BY_ORDER:
        if len(pictures) != len(truths):
            raise SettingError(f"{folder} has {len(pictures)} pictures and {truth} {len(truths)}: no pairs by order.")
        return [Pair(_name(t, root), p, t) for p, t in zip(pictures, truths, strict=True)]
    return _by_name(pictures, truths, at_home(folder), root)


def _by_name(pictures: Sequence[Path], truths: Sequence[Path], here: Path, there: Path) -> list[Pair]:
    named: dict[str, Path] = {}
    for truth in truths:
        name = _name(truth, there)
        if name in named:
            raise SettingError(f"{named[name]} and {truth} have the same name: pair them by a list.")
        named[name] = truth
    taken: dict[str, Path] = {}
    alone: list[Path] = []
    for picture in pictures:
        partner = _partner(_name(picture, here), named)
        if partner is None:
            alone.append(picture)
        elif partner in taken:
            raise SettingError(f"{taken[partner]} and {picture} both belong to {named[partner]}: pair them by a list.")
        else:
            taken[partner] = picture
    left = [truth for name, truth in named.items() if name not in taken]
    if alone or left:
        raise SettingError(
            f"Not every picture has a partner. Without a ground truth: {_few(alone)}; ground truth without a picture: "
            f"{_few(left)}. Complete the folders, or pair by order or by a list."
        )
    return [Pair(name, taken[name], truth) for name, truth in named.items()]


def _partner(name: str, truths: dict[str, Path]) -> str | None:
    """The truth of the same name, else the longest one that the name starts with."""
    if name in truths:
        return name
    begun = [truth for truth in truths if name.startswith(truth) and not name[len(truth)].isalnum()]
    return max(begun, key=len) if begun else None


def _from_list(path: Path, here: Path, there: Path) -> list[Pair]:
    if not path.is_file():
        raise SettingError(f"Pairs are made by name, by order, or from a text file; there is no file {path}.")
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        parts = [part.strip() for part in (line.split("\t") if "\t" in line else line.split())]
        if not any(parts):
            continue
        if len(parts) != 2:
            raise SettingError(f"{path}, line {number}: wanted a picture and its ground truth, got {line!r}.")
        picture, truth = here / parts[0], there / parts[1]
        for file in (picture, truth):
            if not file.is_file():
                raise SettingError(f"{path}, line {number}: there is no file {file}.")
        pairs.append(Pair(_name(truth, there), picture, truth))
    if not pairs:
        raise SettingError(f"{path} lists no pairs.")
    return pairs


def _name(path: Path, root: Path) -> str:
    """A picture's place below its folder, without suffix."""
    return (path.relative_to(root) if path != root else Path(path.name)).with_suffix("").as_posix()


def _few(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown or "none"


def find_methods(folders: Sequence[str], truth: str | None, how: str = BY_NAME) -> list[Method]:
    """Methods from folders, each `FOLDER` or `NAME=FOLDER`. Raises SettingError, also where two share a name."""
    methods = []
    for text in folders:
        name, _, folder = text.rpartition("=")
        path = at_home(folder)
        methods.append(Method(name or path.resolve().name, path, tuple(pair_up(path, truth, how))))
    names = [method.name for method in methods]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SettingError(f"Two methods are called {', '.join(sorted(twice))}: give them names, as NAME=FOLDER.")
    return methods
