"""Which pictures a training reads: photographs that it degrades, or pairs of a large and a small picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingError
from ..files import at_home, find_pictures
from ..geometry import Size
from ..picture.header import read_header
from ..tables import is_table, read_table
from .data import few, usable


@dataclass(frozen=True)
class Pictures:
    """Large pictures, and in the same order the small ones that belong to them; those are empty where the large ones
    are degraded."""

    large: list[Path]
    small: list[Path]


def list_pictures(inputs: Sequence[str | Path], pairs: str | Path | None = None, scale: int = 4) -> Pictures:
    """What the inputs name: folders, files, lists, and tables with a column `path` and perhaps `lr`.

    `pairs` is a folder with the small picture of each: NAME or NAMEx4 (the scale), in any format, in the same
    subfolder. Raises SettingError where a picture has no partner or two.
    """
    found: list[tuple[Path, Path, str]] = []  # path, place, what a table says of its small picture
    for text in inputs:
        path = at_home(text)
        if is_table(path):
            found += [_of_row(path, row) for row in read_table(path)]
        else:
            found += [(one.path, one.place, "") for one in find_pictures([path])]
    if not found:
        raise SettingError(f"No picture is listed in {', '.join(map(str, inputs))}.")
    large = [path for path, _, _ in found]
    named = [path for path, _, small in found if small]
    if pairs is not None and named:
        raise SettingError(f"Small pictures are named twice: by {pairs} and by the table's column lr ({named[0]}).")
    if pairs is not None:
        return Pictures(large, _partners([place for _, place, _ in found], at_home(pairs), scale))
    if named and len(named) < len(large):
        without = [path for path, _, small in found if not small]
        raise SettingError(f"{len(without)} of {len(large)} rows have no small picture (column lr): {few(without)}.")
    return Pictures(large, [Path(small) for _, _, small in found if small])


def _of_row(table: Path, row: dict) -> tuple[Path, Path, str]:
    path = Path(row["path"])
    return path, Path(path.name), str(table.parent / str(row["lr"])) if row.get("lr") else ""


def _partners(places: Sequence[Path], folder: Path, scale: int) -> list[Path]:
    """For each place below the folder of large pictures, its small one."""
    held: dict[str, Path] = {}
    for one in find_pictures([folder]):
        name = str(one.place.with_suffix("")).removesuffix(f"x{scale}")
        if name in held:
            raise SettingError(f"Two small pictures have one name: {held[name]} and {one.path}. Remove one.")
        held[name] = one.path
    wanted = [str(place.with_suffix("")) for place in places]
    missing = [place for place, name in zip(places, wanted, strict=True) if name not in held]
    if missing:
        raise SettingError(
            f"{len(missing)} of {len(places)} pictures have no partner in {folder}: {few(missing)} (looked for "
            f"NAME and NAMEx{scale} in any format)."
        )
    return [held[name] for name in wanted]


def usable_pictures(
    pictures: Pictures, crop: int, scale: int, report: Callable[[int, int], None] | None = None
) -> Pictures:
    """Those that open and hold a crop, as `usable` has it. Raises SettingError where nothing is left, or a small
    picture is not 1/scale of its large one."""
    kept = usable(pictures.large, crop, report)
    if not pictures.small:
        return Pictures(kept, [])
    partner = dict(zip(pictures.large, pictures.small, strict=True))
    small = [partner[path] for path in kept]
    wrong = [pair for pair in zip(kept, small, strict=True) if _times(read_header(pair[1]).size, scale) != _size(pair)]
    if wrong:
        a, b = wrong[0]
        raise SettingError(
            f"{len(wrong)} of {len(kept)} small pictures are not 1/{scale} of their large ones: {b} is "
            f"{read_header(b).size} px and {a} is {read_header(a).size} px. Cut the large ones, or give another "
            "--scale."
        )
    return Pictures(kept, small)


def _size(pair: tuple[Path, Path]) -> Size:
    return read_header(pair[0]).size


def _times(size: Size, scale: int) -> Size:
    return Size(scale * size.height, scale * size.width)
