"""Nine tables of the four papers: OP4KSR (arXiv 2605.13457) 3 to 6, OSEDiff (2406.08177) 1 and 7, TVT (2507.20291) 1
and 2, F2IDiff-SR 2.

OSEDiff's row on RealSR, DRealSR and DIV2K is the same in OSEDiff, TVT and F2IDiff-SR: the sets are shared, or the row
was copied. Data of equal names are compared only within one table.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..errors import SettingError
from ..paths import ASSETS
from ..settings import near
from .metrics import METRICS


@dataclass(frozen=True)
class Row:
    """One method's published values in one table, by the names of `evaluate.metrics.METRICS` and a few more.

    `flops` and `parameters` are counts, seconds and gigabytes what they say.
    """

    paper: str
    table: str
    data: str
    method: str
    values: dict[str, float]


@cache
def rows() -> tuple[Row, ...]:
    """All rows, in the order of the papers' tables."""
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    with (ASSETS / "published.tsv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file, delimiter="\t"):
            key = (line["paper"], line["table"], line["data"], line["method"])
            found.setdefault(key, {})[line["metric"]] = _number(line["value"])
    return tuple(Row(*key, values) for key, values in found.items())


def _number(text: str) -> float:
    """A number, which may have a unit of thousands: `1.8 T`."""
    digits, _, unit = text.partition(" ")
    return float(digits) * {"": 1, "M": 1e6, "G": 1e9, "T": 1e12}[unit]


def tables(data: str) -> list[list[Row]]:
    """The tables on this data, a list of rows each; capitals do not matter. Raises SettingError where there is none."""
    names = list(dict.fromkeys(row.data for row in rows()))
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows():
        if row.data.lower() == data.lower():
            found.setdefault((row.paper, row.table), []).append(row)
    if not found:
        raise SettingError(f"No table is on {data!r}; there are {', '.join(names)}.{near(data, names)}")
    return list(found.values())


def table(paper: str, number: str, data: str) -> list[Row]:
    """One table's rows on one data."""
    return [row for row in rows() if (row.paper, row.table, row.data) == (paper, number, data)]


def as_markdown(shown: Sequence[Row], names: Sequence[str]) -> str:
    """A row per method with the metrics of these names that the table has; blank where it has none."""
    present = [name for name in names if any(name in row.values for row in shown)]
    heads = [METRICS[name].heading if name in METRICS else name for name in present]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for row in shown:
        lines.append(f"| {row.method} | " + " | ".join(_cell(row.values.get(name)) for name in present) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
