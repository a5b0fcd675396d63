"""The pictures to be judged, with what is known of each: one table, written once."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import SettingError
from ..files import at_home, find_pictures, read_lines, read_text
from ..formats import READABLE

log = logging.getLogger("op4ksr")

TABLES = (".csv", ".jsonl", ".parquet")


def list_pictures(inputs: Sequence[str]) -> pa.Table:
    """Columns `path` (absolute), `licence` and whatever else the tables among the inputs have.

    Inputs are folders, pictures, text lists, and tables (CSV, JSON lines, Parquet) with a column `path`, relative to
    the table. A licence stays with its picture. Raises SettingError where nothing is found.
    """
    rows: list[dict[str, Any]] = []
    for text in inputs:
        path = at_home(text)
        if path.suffix.lower() in TABLES and path.is_file():
            rows += [{**row, "path": str(_placed(path, row))} for row in _read_table(path)]
        else:
            rows += [{"path": str(found.path)} for found in find_pictures([path])]
    if not rows:
        raise SettingError(f"No picture is listed in {', '.join(inputs)} (looked for {', '.join(READABLE)}).")
    rows = _joined([{**row, "path": os.path.abspath(row["path"])} for row in rows])  # noqa: PTH100, links stay
    names = list(dict.fromkeys(name for row in rows for name in row))
    others = [name for name in names if name not in ("path", "licence")]
    columns = {"path": [row["path"] for row in rows], "licence": [str(row.get("licence") or "") for row in rows]}
    columns |= {name: ["" if row.get(name) is None else str(row[name]) for row in rows] for name in others}
    return pa.table(columns)


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each picture once, with all that its lines say of it; doubled lines are logged. Raises SettingError where two
    lines give it different licences."""
    found: dict[str, dict[str, Any]] = {}
    twice: dict[str, None] = {}
    for row in rows:
        path = row["path"]
        before = found.get(path)
        if before is None:
            found[path] = row
            continue
        twice[path] = None
        licences = [one["licence"] for one in (before, row) if one.get("licence")]
        if len(set(licences)) > 1:
            raise SettingError(f"{path} is listed with the licences {licences[0]} and {licences[1]}: which holds?")
        found[path] = {**row, **{name: value for name, value in before.items() if value not in (None, "")}}
    if twice:
        shown = ", ".join([*twice][:3]) + (" ..." if len(twice) > 3 else "")
        log.warning("%d pictures are listed more than once and count once: %s", len(twice), shown)
    return list(found.values())


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        rows = list(_table_rows(path))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise SettingError(f"{path} cannot be read as a table: {error}.") from error
    strange = next((row for row in rows if not isinstance(row, dict)), None)
    if strange is not None:
        raise SettingError(f"{path} has a row that is no object with a `path`: {strange!r}.")
    return rows


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        yield from pq.read_table(path).to_pylist()
    elif path.suffix.lower() == ".csv":
        yield from csv.DictReader(io.StringIO(read_text(path), newline=""))
    else:
        yield from (json.loads(line) for line in read_lines(path) if line.strip())


def _placed(table: Path, row: dict[str, Any]) -> Path:
    if not row.get("path"):
        raise SettingError(f"{table} has a row without `path`: {row}.")
    return table.parent / str(row["path"])
