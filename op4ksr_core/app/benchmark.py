"""`op4ksr benchmark make | check | run`: the paper's benchmarks."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..evaluate import published
from ..evaluate.metrics import Tiles, find_metrics
from ..evaluate.page import as_html
from ..evaluate.pairing import Method, Pair
from ..evaluate.run import Outcome, evaluate
from ..evaluate.tables import as_csv, as_json, as_markdown, shown
from ..files import at_home, check_folders, write_text
from ..geometry import Scale
from ..optional import require
from ..testsets.make import MANIFEST, SCALE, differences, make, read_manifest
from .argument_types import SEED
from .batch import BatchSettings, Job, Result, run_jobs
from .console import Display, complain, picture_bar, say
from .evaluate import compared, metric_names
from .options import add_inputs, add_measures, add_method_options, add_model_options, make_upscaler, upscale_settings


def add_options(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(required=True, dest="step", metavar="STEP")
    make = steps.add_parser("make", help="a benchmark from pictures of yours, with a manifest")
    make.add_argument("kind", choices=("syn", "square", "vary", "div4k"), help="4KSR-Syn, RealSquare ...")
    add_inputs(make)
    make.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make it in")
    make.add_argument("--seed", type=SEED, default=0, help="of the degradations (default 0)")
    make.add_argument("--manifest", metavar="FILE", help="somebody's manifest: say what comes out otherwise")
    check = steps.add_parser("check", help="whether the files are as the manifest has them")
    check.add_argument("folder", help="a benchmark")
    check.add_argument("--manifest", metavar="FILE", help="another manifest than the folder's own")
    run = steps.add_parser("run", help="enlarge, evaluate, and write the paper's tables with a row more")
    run.add_argument("folder", help="a benchmark")
    run.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of pictures and tables")
    run.add_argument("--name", default="ours", help="of the row (default ours)")
    add_measures(run)
    add_model_options(run)
    add_method_options(run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the named step."""
    return {"make": _make, "check": _check, "run": _run}[arguments.step](arguments)


def _make(arguments: argparse.Namespace) -> int:
    out = at_home(arguments.output)
    with picture_bar() as report:
        manifest = make(arguments.kind, arguments.inputs, out, arguments.seed, report)
    say(f"{manifest['benchmark']}: {len(manifest['pictures'])} pictures, {out / MANIFEST}")
    left_out = manifest.get("left_out", [])
    for problem in left_out:
        complain(f"left out: {problem}")
    differs = _compared(out, read_manifest(at_home(arguments.manifest))) if arguments.manifest else 0
    return differs or int(bool(left_out))


def _check(arguments: argparse.Namespace) -> int:
    folder = at_home(arguments.folder)
    return _compared(folder, read_manifest(at_home(arguments.manifest) if arguments.manifest else folder))


def _compared(folder: Path, manifest: dict[str, Any]) -> int:
    """Prints what differs; 1 if anything does."""
    found = list(differences(folder, manifest))
    count = len(manifest["pictures"])
    say("\n".join(found) if found else f"{folder}: all {count} pictures are as the manifest has them.")
    return int(bool(found))


def _run(arguments: argparse.Namespace) -> int:
    """Enlarges, evaluates, writes; 1 if a picture failed or could not be judged. Raises Op4ksrError before any work."""
    require("evaluate")
    folder, out = at_home(arguments.folder), at_home(arguments.output)
    manifest = read_manifest(folder)
    wrong = list(differences(folder, manifest))
    if wrong:
        raise SettingError(f"{folder} is not as its manifest has it: {' '.join(wrong[:3])} Make it again.")
    names = list(manifest["pictures"])
    with_truth = all("hr" in entry for entry in manifest["pictures"].values())
    metrics, absent = find_metrics(metric_names(arguments.metrics), with_truth)
    jobs = [Job(folder / "lr" / f"{name}.png", out / "sr" / f"{name}.png") for name in names]
    check_folders([out / "x", *(job.output for job in jobs)])
    results = _enlarged(arguments, jobs)
    pairs = [
        Pair(n, j.output, folder / "hr" / f"{n}.png" if with_truth else None) for n, j in zip(names, jobs, strict=True)
    ]
    method = Method(arguments.name, out / "sr", tuple(pairs))
    tiles = Tiles(arguments.tile, arguments.stride, arguments.aggregate)
    outcome = evaluate([method], metrics, tiles, out / "results.resume", arguments.workers, absent)
    text = report_of(outcome, manifest, results)
    contents = {
        "results.md": text,
        "results.csv": as_csv(outcome),
        "results.html": as_html(outcome, arguments.page_side),
    }
    contents["results.json"] = json.dumps(as_json(outcome) | {"benchmark": manifest["benchmark"]}, indent=1) + "\n"
    for name, content in contents.items():
        write_text(out / name, content)
    (out / "results.resume").unlink(missing_ok=True)
    say(text.rstrip("\n"))
    return int(bool(outcome.failed) or any(result.status == "failed" for result in results))


def _enlarged(arguments: argparse.Namespace, jobs: Sequence[Job]) -> list[Result]:
    """What is there already is skipped."""
    settings = upscale_settings(arguments)
    upscaler, results = make_upscaler(arguments, settings), []
    with Display(len(jobs)) as display:
        for result in run_jobs(upscaler, jobs, BatchSettings(settings, Scale(SCALE)), display.start):
            results.append(result)
            display.finish(result)
    return results


TABLES = {"syn": "4KSR-Syn", "square": "4KSR-RealSquare", "vary": "4KSR-RealVary", "div4k": "DIV4K-50"}
"""The papers' name of each kind's data."""


def report_of(outcome: Outcome, manifest: dict[str, Any], results: Sequence[Result]) -> str:
    """Our row, then the papers' tables on the benchmark of that name: quality, ablation and seconds."""
    data = TABLES[manifest["kind"]]
    lines = [f"# {manifest['benchmark']}, {len(manifest['pictures'])} pictures", "", as_markdown(outcome)]
    lines += [compared(outcome, data), ""]
    timed = [result.seconds for result in results if result.status == "done"]
    lines += ["| one picture | seconds | GB | machine |", "|---|---|---|---|"]
    if timed:
        ours = f"| {outcome.methods[0].name} | {shown(sorted(timed)[len(timed) // 2])} |"
        lines.append(f"{ours} | this one, median of {len(timed)} |")
    for row in published.table("OP4KSR", "5", "1024 to 4096 px on an H20"):
        seconds, memory = (row.values.get(name, "") for name in ("seconds", "gigabytes"))
        lines.append(f"| {row.method} (published) | {seconds} | {memory} | H20, 4096x4096 px |")
    return "\n".join(lines) + "\n"
