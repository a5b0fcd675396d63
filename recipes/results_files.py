"""The files of docs/results, and Markdown tables of them."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


def read(file: str) -> dict:
    """A file of docs/results. Raises FileNotFoundError where it was not measured yet."""
    return json.loads((RESULTS / file).read_text())


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
