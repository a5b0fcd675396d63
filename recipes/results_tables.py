"""The tables of results in the documents, from docs/results.

    python -m recipes.results_tables

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; NAME is one of TABLES.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from op4ksr_core.evaluate.metrics import METRICS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = ("README.md", "docs/results.md", "op4ksr_core/assets/embedded/MODEL_CARD.md")

MEASURES = ("psnr", "ssim", "gmsd", "hf_energy_db", "hf_correlation", "niqe", "periodicity")
NAMES = {"the model": "this", "peer": "realesr-general-x4v3"}
"""What readers call the rows."""


def means(file: str, rows: tuple[str, ...]) -> str:
    """Means of some rows, a row a line."""
    found = json.loads((RESULTS / file).read_text())["rows"]
    lines = [_head("method", "soft ‰ ↓")]
    for name in rows:
        mean = found[name]["mean"]
        lines.append(_row(NAMES.get(name, name), [*map(mean.get, MEASURES), f"{mean['soft']:.1f}"]))
    return "\n".join(lines) + "\n"


def medians(file: str) -> str:
    """Medians of all rows; of texture in soft areas the mean and the worst picture."""
    found = json.loads((RESULTS / file).read_text())["rows"]
    lines = [_head("row", "soft ‰ ↓, worst")]
    for name, row in found.items():
        soft = [one["soft"] for one in row["pictures"].values() if one["soft"] is not None]
        cells = [*map(row["median"].get, MEASURES), f"{statistics.fmean(soft):.2f}, {max(soft):.1f}"]
        lines.append(_row(name, cells))
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "RealSR means": lambda: means("rows_realsr.json", ("Lanczos", "the model", "peer")),
    "RealSR medians": lambda: medians("rows_realsr.json"),
    "held-out medians": lambda: medians("rows_held_out.json"),
}

_DIGITS = {"psnr": 2, "ssim": 3, "gmsd": 3, "hf_energy_db": 1, "hf_correlation": 3, "niqe": 2, "periodicity": 3}


def _head(first: str, last: str) -> str:
    headings = [first, *(METRICS[name].heading for name in MEASURES), last]
    return f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|"


def _row(name: str, cells: list) -> str:
    numbers = [f"{value:.{_DIGITS[m]}f}" for m, value in zip(MEASURES, cells[:-1], strict=True)]
    return f"| {name} | {' | '.join([*numbers, cells[-1]])} |"


def with_tables(page: str) -> str:
    """The page with every table as the data say. Raises KeyError on the name of a table that there is not."""
    marked = re.compile(r"(<!-- results: (.+?) -->\n)(.*?)(<!-- end of results -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[4]}", page)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(with_tables(path.read_text()))
