"""`op4ksr evaluate`: judges results against their ground truth: tables, tests, page."""

import argparse
import json

from ..errors import SettingError
from ..evaluate import published
from ..evaluate.metrics import METRICS, Tiles, find_metrics
from ..evaluate.pairing import find_methods
from ..evaluate.run import Outcome, evaluate
from ..evaluate.tables import as_csv, as_json, as_markdown, unavailable_sentences
from ..files import at_home, check_targets, write_text
from ..optional import require
from .console import complain, picture_bar, say
from .options import add_measures


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a method's results; NAME=FOLDER gives it a name")
    parser.add_argument("--gt", metavar="FOLDER", help="ground truth; without it only metrics that need none run")
    parser.add_argument("--pairs", default="name", help="name (default), order, or a file with a pair per line")
    for kind, text in (
        ("json", "count, mean, interval and per_image by metric"),
        ("csv", "a line per picture"),
        ("markdown", "the table that is printed"),
        ("html", "a page with sliders and zoom, complete in itself"),
    ):
        parser.add_argument(f"--{kind}", metavar="FILE", help=text)
    add_measures(parser)
    parser.add_argument(
        "--compare", metavar="DATA", help="also print the papers' tables on this data, such as 4KSR-Syn or RealSR"
    )
    parser.add_argument("--overwrite", action="store_true", help="start over instead of resuming")


def run(arguments: argparse.Namespace) -> int:
    """Prints the Markdown table and writes what was asked for; 1 if a picture could not be judged, else 0."""
    require("evaluate")
    metrics, unavailable = find_metrics(metric_names(arguments.metrics), arguments.gt is not None)
    if arguments.compare:
        published.tables(arguments.compare)  # a wrong name is refused before the work
    methods = find_methods(arguments.folders, arguments.gt, arguments.pairs)
    tiles = Tiles(arguments.tile, arguments.stride, arguments.aggregate)
    asked = {kind: getattr(arguments, kind) for kind in ("json", "csv", "markdown", "html")}
    places = {kind: at_home(place) for kind, place in asked.items() if place}
    pictures = [path for method in methods for pair in method.pairs for path in (pair.picture, pair.truth) if path]
    check_targets(list(places.values()), pictures)
    first = next(iter(places.values()), None)
    keep = first.with_name(f"{first.name}.resume") if first else None
    if keep and arguments.overwrite:
        keep.unlink(missing_ok=True)
    for sentence in unavailable_sentences(unavailable):
        complain(f"op4ksr: {sentence}")
    with picture_bar() as report:
        outcome = evaluate(methods, metrics, tiles, keep, arguments.workers, unavailable, report)
    contents = {"json": json.dumps(as_json(outcome), indent=1) + "\n", "csv": as_csv(outcome)}
    contents["markdown"] = as_markdown(outcome)
    if arguments.compare:
        contents["markdown"] += "\n" + compared(outcome, arguments.compare)
    if "html" in places:
        from ..evaluate.page import as_html

        contents["html"] = as_html(outcome, arguments.page_side)
    for kind, path in places.items():
        write_text(path, contents[kind])
    say(contents["markdown"].rstrip("\n"))
    if keep:
        keep.unlink(missing_ok=True)
    return int(bool(outcome.failed))


def compared(outcome: Outcome, data: str) -> str:
    """The papers' tables on `data`, each under a heading that says whose it is, in the order of our columns.

    Our means are not put among them: these pictures are yours, and those the papers'.
    """
    ours = [metric.name for metric in outcome.metrics]
    names = [*ours, *(name for name in METRICS if name not in ours)]
    parts = [
        f"Above: {len(outcome.methods[0].pairs)} pictures of yours. Published on {data}, for comparison with care:\n"
    ]
    for rows in published.tables(data):
        parts.append(f"**{rows[0].paper}, table {rows[0].table}, on {rows[0].data}**\n")
        parts.append(published.as_markdown(rows, names) + "\n")
    return "\n".join(parts)


def metric_names(text: str) -> list[str]:
    """The names in a comma list. Raises SettingError where there is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SettingError("--metrics names none: give a list such as psnr,ssim, or local, or all.")
    return names
