"""The pictures to be judged, with what is known of each: one table, written once."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..errors import SettingError
from ..files import at_home, find_pictures
from ..formats import READABLE
from ..tables import is_table, read_table

log = logging.getLogger("op4ksr")


def list_pictures(inputs: Sequence[str]) -> pa.Table:
    """Columns `path` (absolute), `licence` and whatever else the tables among the inputs have.

    Inputs are folders, pictures, text lists, and tables (CSV, JSON lines, Parquet) with a column `path`, relative to
    the table. A licence stays with its picture. Raises SettingError where nothing is found.
    """
    rows: list[dict[str, Any]] = []
    for text in inputs:
        path = at_home(text)
        if is_table(path):
            rows += read_table(path)
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
