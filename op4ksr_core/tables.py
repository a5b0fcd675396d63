"""Tables of pictures: CSV, JSON lines and Parquet with a column `path`. No torch."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import SettingError
from .files import read_lines, read_text

TABLES = (".csv", ".jsonl", ".parquet")


def is_table(path: Path) -> bool:
    """Whether a file of that name is read as a table."""
    return path.suffix.lower() in TABLES and path.is_file()


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows by column, with `path` relative to the table made whole. Raises SettingError, which names the table and
    the row."""
    try:
        rows = list(_rows(path))
    except SettingError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise SettingError(f"{path} cannot be read as a table: {error}.") from error
    for row in rows:
        if not isinstance(row, dict):
            raise SettingError(f"{path} has a row that is no object with a `path`: {row!r}.")
        if not row.get("path"):
            raise SettingError(f"{path} has a row without `path`: {row}.")
    return [{**row, "path": str(path.parent / str(row["path"]))} for row in rows]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind == ".csv":
        yield from csv.DictReader(io.StringIO(read_text(path), newline=""))
    else:
        yield from (json.loads(line) for line in read_lines(path) if line.strip())


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SettingError(f"{path}: Parquet needs pyarrow ({error}): pip install 'op4ksr[curate]'.") from error
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows
