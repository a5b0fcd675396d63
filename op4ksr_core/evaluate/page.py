"""An evaluation as one page of HTML to look at: no server, nothing fetched."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__
from ..errors import Op4ksrError
from ..picture.before_after import detail_corner
from ..picture.convert import as_picture
from ..picture.read import read_picture
from .metrics import SET
from .run import Outcome
from .statistics import compare, interval
from .tables import mean_of, ranks, shown, unavailable_sentences

_TEMPLATE = Path(__file__).parent.parent / "assets" / "evaluation_page.html"
_TRUTH = "ground truth"
_QUALITY = 92


def as_html(outcome: Outcome, side: int = 512) -> str:
    """The page: tables, tests, and for each picture a slider between any two of its versions, all zoomed together.

    A picture larger than `side` px is shown by its most detailed square of that side, pixel for pixel; 0 leaves
    pictures out. They are JPEGs there: the numbers come from the files.
    """
    files: dict[str, str] = {}
    entries = [_entry(outcome, name, side, files) for name in dict.fromkeys(row.name for row in outcome.rows)]
    first = outcome.methods[0].name
    data = {
        "sentences": _sentences(outcome, side),
        "summary": _summary(outcome),
        "tests": {
            "head": ["methods", "metric", "pictures", "mean difference", "p"],
            "rows": [
                [f"{t.a} - {t.b}", t.metric, str(t.count), shown(t.difference), f"{t.p:.2g}"] for t in compare(outcome)
            ],
        },
        "problems": unavailable_sentences(outcome.unavailable),
        "entries": entries,
        "orders": [f"{first}: {m.title}, worst first" for m in outcome.metrics if m.kind != SET],
        "files": files,
    }
    text = json.dumps(data, allow_nan=False)
    for mark in "<>&":  # a file's name ends no script
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return _TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def _sentences(outcome: Outcome, side: int) -> list[str]:
    counted = ", ".join(f"{method.name}: {len(method.pairs)} pictures" for method in outcome.methods)
    shown_as = f"Pictures above {side} px are shown by their most detailed part, as JPEG; numbers come from the files."
    return [f"OP4KSR {__version__}. {counted}.", *([shown_as] if side else [])]


def _summary(outcome: Outcome) -> dict[str, Any]:
    places = {metric.name: ranks(outcome, metric) for metric in outcome.metrics}
    rows = []
    for method in outcome.methods:
        row: list[Any] = [method.name]
        for metric in outcome.metrics:
            mean, values = (
                mean_of(outcome, method.name, metric),
                list(outcome.values(method.name, metric.name).values()),
            )
            around = interval(values)
            text = (
                "" if mean is None else shown(mean) + (f" [{shown(around[0])}, {shown(around[1])}]" if around else "")
            )
            text += f" n={len(values)}" if metric.kind != SET and len(values) != len(method.pairs) else ""
            place = places[metric.name].get(method.name, 0) if len(outcome.methods) > 1 else 0
            row.append({"text": text, "kind": {1: "best", 2: "second"}.get(place, "")})
        rows.append(row)
    return {"head": ["method", *(m.heading for m in outcome.metrics)], "rows": rows}


def _entry(outcome: Outcome, name: str, side: int, files: dict[str, str]) -> dict[str, Any]:
    rows = [row for row in outcome.rows if row.name == name]
    metrics = [metric for metric in outcome.metrics if metric.kind != SET]
    values = [
        [row.method, *(shown(row.values[m.name]) if m.name in row.values else "" for m in metrics)] for row in rows
    ]
    pictures, where, size, problems = _pictures(outcome, name, side, files) if side else ({}, "", (1, 1), [])
    first = rows[0]
    order = {
        f"{first.method}: {m.title}, worst first": m.goodness(first.values[m.name])
        for m in metrics
        if math.isfinite(first.values.get(m.name, math.inf))
    }
    return {
        "name": name,
        "where": where,
        "width": size[0],
        "height": size[1],
        "pictures": pictures,
        "values": {"head": ["", *(m.title for m in metrics)], "rows": values},
        "order": order,
        "problems": [f"{row.method}: {text}" for row in rows for text in (*row.problems, *row.notes)] + problems,
    }


def _pictures(
    outcome: Outcome, name: str, side: int, files: dict[str, str]
) -> tuple[dict[str, str], str, tuple[int, int], list[str]]:
    """Key of each version's file, which part is shown, its size, and what could not be read."""
    paths: dict[str, Path] = {}
    for method in outcome.methods:
        for pair in method.pairs:
            if pair.name == name:
                paths[method.name] = pair.picture
                if pair.truth:
                    paths[_TRUTH] = pair.truth
    keys: dict[str, str] = {}
    box: tuple[int, int, int, int] | None = None
    where, full, problems = "", (0, 0), []
    for version in sorted(paths, key=lambda version: version != _TRUTH):
        try:
            image = as_picture(read_picture(paths[version]).rgb[0])
        except Op4ksrError as error:
            problems += [str(error)]
            continue
        if box is None:
            full = image.size
            left, top = detail_corner(image, side) if max(full) > side else (0, 0)
            box = (left, top, min(full[0], left + side), min(full[1], top + side))
            where = (
                f"{box[2] - left}x{box[3] - top} px at {left}, {top} of {full[0]}x{full[1]}" if max(full) > side else ""
            )
        if image.size == full:
            keys[version] = f"{len(files)}"
            files[keys[version]] = _jpeg(image.crop(box))
    keys = {version: keys[version] for version in paths if version in keys}
    return keys, where, (box[2] - box[0], box[3] - box[1]) if box else (1, 1), problems


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()
