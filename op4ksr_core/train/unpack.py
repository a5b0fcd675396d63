"""Pictures and captions out of WebDataset tars and Hugging Face datasets, through their libraries, as files.

A training cuts sample n from a picture that it finds by number, so that it can be resumed and shared out; streams have
no numbers. A picture's bytes are written as they are.
"""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from ..errors import SettingError
from ..files import write_atomically
from ..formats import READABLE
from ..optional import require

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}


class Item(NamedTuple):
    """One picture of a dataset: its name without suffix, its suffix, its bytes, its caption."""

    name: str
    suffix: str
    data: bytes
    caption: str


def is_webdataset(source: str) -> bool:
    """Whether a source is read as tars; `{000..010}` stands for several."""
    return source.endswith((".tar", ".tar.gz", ".tgz"))


def webdataset_items(source: str, caption: str = "txt") -> Iterator[Item]:
    """The pictures of tars, with the member `caption` of each. Raises SettingError."""
    require("webdataset")
    import webdataset

    for sample in webdataset.WebDataset(source, shardshuffle=False, empty_check=False):
        found = next((kind for kind in sample if f".{kind.lower()}" in READABLE), None)
        if found is not None:
            text = sample.get(caption, b"").decode("utf-8").strip()
            yield Item(sample["__key__"], f".{found.lower()}", sample[found], text)


def dataset_items(source: str, split: str = "train", image: str = "image", caption: str = "") -> Iterator[Item]:
    """The pictures of a Hugging Face dataset, a name or a folder, by number; `caption` is a column. Raises
    SettingError."""
    require("datasets")
    import datasets

    try:
        rows: Any = datasets.load_dataset(source, split=split, streaming=True)
        rows = rows.cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # a missing dataset, split or column each fails in its own way
        raise SettingError(f"The dataset {source} (split {split}, column {image}) cannot be read: {error}") from error
    for number, row in enumerate(rows):
        held = row.get(image)
        if held is None or (caption and caption not in row):
            raise SettingError(
                f"Row {number} of {source} lacks {image} or {caption or 'a caption'}: it has {', '.join(row)}."
            )
        data = held["bytes"] if held["bytes"] is not None else Path(held["path"]).read_bytes()
        text = str(row[caption] or "").strip() if caption else ""
        yield Item(f"{number:08d}", _suffix_of(data, f"row {number} of {source}"), data, text)


def _suffix_of(data: bytes, what: str) -> str:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return _SUFFIXES[str(picture.format)]
    except (OSError, KeyError) as error:
        raise SettingError(f"{what} holds no picture that is read ({', '.join(_SUFFIXES)}): {error}.") from error


def unpack(items: Iterator[Item], folder: Path) -> int:
    """Writes NAME.SUFFIX, and NAME.txt where there is a caption, below a folder; how many pictures.

    Raises SettingError on a name that leads out of the folder or comes twice, and where there is no picture.
    """
    names: set[str] = set()
    for item in items:
        name = PurePosixPath(item.name)
        if name.is_absolute() or ".." in name.parts or item.name in names:
            raise SettingError(f"The picture {item.name!r} comes twice or lies outside the folder. Rename it.")
        names.add(item.name)
        path = folder / f"{name}{item.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, item.data)
        if item.caption:
            _write(folder / f"{name}.txt", f"{item.caption}\n".encode())
    if not names:
        raise SettingError("The dataset holds no picture.")
    return len(names)


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data))
