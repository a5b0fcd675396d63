"""An evaluation as JSON, CSV and Markdown."""

import csv
import io
import math
import platform
from dataclasses import asdict
from typing import Any

import torch

from .. import __version__
from ..files import printable
from .metrics import FORMER_NAMES, SET, Metric
from .run import Outcome
from .statistics import CONFIDENCE, compare, interval


def mean_of(outcome: Outcome, method: str, metric: Metric) -> float | None:
    """A method's mean in a metric, or its value if the metric is one of whole sets."""
    if metric.kind == SET:
        return outcome.sets[method].get(metric.name)
    values = list(outcome.values(method, metric.name).values())
    return sum(values) / len(values) if values else None


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything: settings, and by method `count`, `mean`, `interval` and `per_image` by metric name."""
    methods = {}
    for method in outcome.methods:
        values = {m.name: outcome.values(method.name, m.name) for m in outcome.metrics if m.kind != SET}
        means = {m.name: mean_of(outcome, method.name, m) for m in outcome.metrics}
        rows = [row for row in outcome.rows if row.method == method.name]
        methods[method.name] = {
            "folder": str(method.folder),
            "pictures": len(method.pairs),
            "count": _under_former_names({name: len(found) for name, found in values.items()}),
            "mean": _under_former_names({name: number(mean) for name, mean in means.items()}),
            "interval": _under_former_names({name: interval(list(found.values())) for name, found in values.items()}),
            "per_image": _under_former_names(
                {name: {k: number(v) for k, v in found.items()} for name, found in values.items()}
            ),
            "errors": {row.name: row.errors for row in rows if row.errors},
            "notes": {row.name: list(row.notes) for row in rows if row.notes},
        }
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tiles": asdict(outcome.tiles),
        "confidence": CONFIDENCE,
        "unavailable": outcome.unavailable,
        "methods": methods,
        "tests": [asdict(test) for test in compare(outcome)],
    }


def _under_former_names(by_metric: dict[str, Any]) -> dict[str, Any]:
    """The same, with the values of renamed metrics under their former names too."""
    return by_metric | {old: by_metric[new] for old, new in FORMER_NAMES.items() if new in by_metric}


def number(value: float | None) -> float | str | None:
    """A float that JSON can hold: infinity, the PSNR of equal pictures, becomes the word `inf`."""
    return str(value) if value is not None and not math.isfinite(value) else value


def as_csv(outcome: Outcome) -> str:
    """A line per picture and method: values, size, notes and errors."""
    names = [metric.name for metric in outcome.metrics if metric.kind != SET]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "picture", "size", *names, "notes", "error"])
    for row in outcome.rows:
        values = [row.values.get(name, "") for name in names]
        said = ["; ".join(row.notes), "; ".join(row.problems)]
        writer.writerow([printable(row.method), printable(row.name), row.size, *values, *map(printable, said)])
    return text.getvalue()


def ranks(outcome: Outcome, metric: Metric) -> dict[str, int]:
    """Place of each method in a metric, 1 the best; equal means share one."""
    means = {method.name: mean_of(outcome, method.name, metric) for method in outcome.methods}
    found = {name: mean for name, mean in means.items() if mean is not None}
    better = sorted(set(found.values()), key=metric.goodness, reverse=True)
    return {name: 1 + better.index(mean) for name, mean in found.items()}


def as_markdown(outcome: Outcome) -> str:
    """A row per method: pictures, and means with half the width of their 95 % intervals; best bold, second in italics.

    Below it what is missing, and the paired tests where there are two methods or more.
    """
    heads = [m.heading for m in outcome.metrics]
    lines = ["| method | pictures | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    places = {metric.name: ranks(outcome, metric) for metric in outcome.metrics}
    for method in outcome.methods:
        cells = [_cell(outcome, method.name, metric, places[metric.name]) for metric in outcome.metrics]
        lines.append(f"| {_plain(method.name)} | {_counted(outcome, method.name)} | " + " | ".join(cells) + " |")
    notes = [f"- {sentence}" for sentence in unavailable_sentences(outcome.unavailable)]
    for row in outcome.failed:
        notes += [_plain(f"- {row.method}, {row.name}: {problem}") for problem in row.problems]
    tests = _tests(outcome)
    return "\n".join([*lines, *(["", *tests] if tests else []), *(["", *notes] if notes else [])]) + "\n"


def _plain(text: str) -> str:
    """Text that a table's cell can hold: no bar, no line break, no control character."""
    return printable(text).replace("|", "\\|")


def unavailable_sentences(unavailable: dict[str, str]) -> list[str]:
    """What cannot run here and why, metrics of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, why in unavailable.items():
        reasons.setdefault(why, []).append(name)
    return [f"Not computed: {', '.join(names)}: {why}." for why, names in reasons.items()]


def _counted(outcome: Outcome, method: str) -> str:
    rows = [row for row in outcome.rows if row.method == method]
    judged = sum(not row.error for row in rows)
    return str(judged) if judged == len(rows) else f"{judged} of {len(rows)}"


def _cell(outcome: Outcome, method: str, metric: Metric, places: dict[str, int]) -> str:
    mean = mean_of(outcome, method, metric)
    if mean is None:
        return ""
    text = shown(mean)
    values = list(outcome.values(method, metric.name).values())
    around = interval(values)
    if around:
        text += f" ± {shown((around[1] - around[0]) / 2, like=mean)}"
    rows = sum(1 for row in outcome.rows if row.method == method)
    if metric.kind != SET and len(values) != rows:
        text += f" (n={len(values)})"
    place = places.get(method, 0) if len(places) > 1 else 0
    return {1: f"**{text}**", 2: f"*{text}*"}.get(place, text)


def shown(value: float, like: float | None = None) -> str:
    """Four digits that say something, or as many decimals as another value has."""
    size = abs(value if like is None else like)
    if not math.isfinite(value):
        return str(value)
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.2f}" if size >= 10 else f"{value:.4f}"


def _tests(outcome: Outcome) -> list[str]:
    tests = compare(outcome)
    if not tests:
        return []
    titles = {metric.name: metric.title for metric in outcome.metrics}
    lines = ["| paired test (Wilcoxon) | metric | pictures | mean difference | p |", "|---|---|---|---|---|"]
    return lines + [
        f"| {_plain(t.a)} - {_plain(t.b)} | {titles[t.metric]} | {t.count} | {shown(t.difference)} | {t.p:.2g} |"
        for t in tests
    ]
