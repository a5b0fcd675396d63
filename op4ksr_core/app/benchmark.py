"""`op4ksr benchmark make | check | run`: the paper's benchmarks."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..evaluate.metrics import METRICS, Metric, Tiles, find_metrics
from ..evaluate.page import as_html
from ..evaluate.pairing import Method, Pair
from ..evaluate.run import Outcome, evaluate
from ..evaluate.tables import as_csv, as_json, as_markdown, mean_of, shown
from ..files import at_home, check_folders, write_text
from ..geometry import Sizing
from ..optional import require
from ..testsets import published
from ..testsets.make import MANIFEST, SCALE, differences, make, read_manifest
from .batch import BatchSettings, Job, Result, run_jobs
from .console import Display, complain, picture_bar, say
from .evaluate import metric_names
from .numbers import SEED
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
    outcome = evaluate([method], metrics, tiles, out / ".rows", arguments.workers, absent)
    text = report_of(outcome, manifest, results)
    contents = {
        "results.md": text,
        "results.csv": as_csv(outcome),
        "results.html": as_html(outcome, arguments.page_side),
    }
    contents["results.json"] = json.dumps(as_json(outcome) | {"benchmark": manifest["benchmark"]}, indent=1) + "\n"
    for name, content in contents.items():
        write_text(out / name, content)
    (out / ".rows").unlink(missing_ok=True)
    say(text.rstrip("\n"))
    return int(bool(outcome.failed) or any(result.status == "failed" for result in results))


def _enlarged(arguments: argparse.Namespace, jobs: Sequence[Job]) -> list[Result]:
    """What is there already is skipped."""
    settings = upscale_settings(arguments)
    upscaler, results = make_upscaler(arguments, settings), []
    with Display(len(jobs)) as display:
        for result in run_jobs(upscaler, jobs, BatchSettings(settings, Sizing(SCALE)), display.start):
            results.append(result)
            display.finish(result)
    return results


def report_of(outcome: Outcome, manifest: dict[str, Any], results: Sequence[Result]) -> str:
    """The paper's tables with our row: quality (tables 3 and 4), and seconds (table 5); its rows are marked."""
    method = outcome.methods[0].name
    is_syn = manifest["kind"] == "syn"
    lines = [f"# {manifest['benchmark']}, {len(manifest['pictures'])} pictures", ""]
    lines += _quality(outcome, published.SYN if is_syn else {})
    if is_syn:
        lines += ["", "Ablation:", "", *_quality(outcome, published.ABLATION, ("psnr", "lpips", "musiq"))]
    timed = [result.seconds for result in results if result.status == "done"]
    lines += ["", "| one picture | seconds | GB | machine |", "|---|---|---|---|"]
    if timed:
        lines.append(f"| {method} | {shown(sorted(timed)[len(timed) // 2])} | | this one, median of {len(timed)} |")
    for name, (seconds, memory) in published.SECONDS.items():
        lines.append(f"| {name} (published) | {seconds} | {memory or ''} | H20, 4096x4096 px |")
    lines += ["", "Published rows are OP4KSR's (arXiv 2605.13457), on pictures of its own: compare with care.", ""]
    return "\n".join(lines) + "\nOur row with intervals:\n\n" + as_markdown(outcome)


def _quality(outcome: Outcome, rows: dict[str, dict[str, float]], only: Sequence[str] = ()) -> list[str]:
    """A table of means: the published rows, and ours."""
    metrics = [metric for metric in METRICS.values() if _belongs(metric, outcome, rows, only)]
    lines = ["| method | " + " | ".join(m.heading for m in metrics) + " |"]
    lines.append("|---" * (1 + len(metrics)) + "|")
    for name, values in rows.items():
        cells = [shown(values[m.name]) if m.name in values else "" for m in metrics]
        lines.append(f"| {name} (published) | " + " | ".join(cells) + " |")
    method = outcome.methods[0].name
    ran = {metric.name for metric in outcome.metrics}
    means = [mean_of(outcome, method, m) if m.name in ran else None for m in metrics]
    lines.append(f"| {method} | " + " | ".join("" if mean is None else shown(mean) for mean in means) + " |")
    return lines


def _belongs(metric: Metric, outcome: Outcome, rows: dict[str, dict[str, float]], only: Sequence[str]) -> bool:
    if only:
        return metric.name in only
    return metric in outcome.metrics or any(metric.name in row for row in rows.values())
