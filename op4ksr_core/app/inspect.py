"""`op4ksr inspect`: the periodicity inspector over picture files."""

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from ..errors import Op4ksrError, SettingError
from ..files import check_targets, json_text, printable, write_atomically
from ..lattice.inspector import Inspection, inspect
from ..lattice.report import draw_report, sentences
from ..lattice.suppress import dithered, suppress
from ..picture.convert import as_picture
from ..picture.read import Picture, read_picture
from ..picture.write import write_picture
from .batch import plan_jobs
from .console import say
from .options import add_inputs


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--reference",
        metavar="F",
        help="the small picture before upscaling, or a ground truth: what it explains is not judged; L_AP's target",
    )
    parser.add_argument("--periods", type=int, nargs="+", default=[8, 16, 32], metavar="PX", help="periods to report")
    parser.add_argument("--only", action="store_true", help="look for those periods alone")
    parser.add_argument("--report", metavar="DIR", help="write a report picture of each")
    parser.add_argument("--suppress", metavar="DIR", help="write each picture without its lattice")
    parser.add_argument("--calm-mesh", action="store_true", help="with --suppress and --reference: calm a mesh too")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Returns 1 if a picture could not be read or inspected, else 0. Raises Op4ksrError before any work."""
    if arguments.calm_mesh and not (arguments.suppress and arguments.reference):
        raise SettingError("--calm-mesh needs --suppress DIR, and the small picture as --reference.")
    folders = {name: getattr(arguments, name) for name in ("report", "suppress")}
    # Without a folder nothing is written; no input lies below the null device.
    unread: list[Path] = []
    jobs = {name: plan_jobs(arguments.inputs, folder or os.devnull, unread=unread) for name, folder in folders.items()}
    targets = [job.output for name, folder in folders.items() if folder for job in jobs[name]]
    check_targets(targets, [job.source for job in jobs["report"]])
    reference = read_picture(arguments.reference).rgb[0] if arguments.reference else None
    rows = []
    for report, cleaned in zip(jobs["report"], jobs["suppress"], strict=True):
        try:
            picture = read_picture(report.source)
            found = inspect(picture.rgb[0], reference, arguments.periods, not arguments.only)
            if folders["report"]:
                _write_report(report.output, picture, found)
            if folders["suppress"]:
                _write_cleaned(cleaned.output, picture, found, reference, arguments.calm_mesh)
            rows.append(row_of(report.source, found))
        except Op4ksrError as error:
            rows.append({"file": str(report.source), "error": str(error)})
    say(json_text(rows).rstrip() if arguments.json else table_of(rows))
    return int(bool(unread) or any("error" in row for row in rows))


def row_of(source: Path, found: Inspection) -> dict:
    """What is reported of one picture: file, score, period, verdict, and the details."""
    return {
        "file": str(source),
        "score": round(found.score, 4),
        "period": round(found.period),
        "verdict": found.verdict,
        "period_px": round(found.period, 3),
        "amplitude": round(found.amplitude, 4),
        "confidence": round(found.confidence, 4),
        "coherence": round(found.coherence, 4),
        "jpeg_grid": found.jpeg_grid,
        "decibels": {str(period): round(value, 2) for period, value in found.suspects.items()},
        "autocorrelation": None if found.autocorrelation is None else found.autocorrelation.tolist(),
        "ap_loss": found.ap_loss,
        "reference": found.referenced,
        "note": found.note,
        "mesh": {
            "found": found.mesh.found,
            "per_mille": round(found.mesh.per_mille, 2),
            "soft": round(found.mesh.soft, 4),
            "largest": round(found.mesh.largest, 2),
            "pitch_px": round(found.mesh.pitch, 2),
        },
        "peaks": [asdict(peak) for peak in found.peaks[:24]],
        "sentences": sentences(found),
    }


def table_of(rows: list[dict]) -> str:
    """Lines of a fixed-width table, errors in full below it."""
    lines = [f"{'score':>6} {'period':>7} {'1/255':>6} {'verdict':<8} {'JPEG':<5} {'mesh':>6} file"]
    for row in rows:
        if "error" not in row:
            grid = "grid" if row["jpeg_grid"] else ""
            numbers = f"{row['score']:6.2f} {row['period_px']:7.4g} {row['amplitude']:6.2f}"
            lines.append(f"{numbers} {row['verdict']:<8} {grid:<5} {_mesh_cell(row)} {printable(row['file'])}")
    return "\n".join(lines + [printable(f"failed {row['file']}: {row['error']}") for row in rows if "error" in row])


def _mesh_cell(row: dict) -> str:
    """Per mille of the soft areas with a mesh, where one is found."""
    return f"{row['mesh']['per_mille']:6.1f}" if row["mesh"]["found"] else " " * 6


def _write_cleaned(path: Path, picture: Picture, found: Inspection, reference: Tensor | None, calm: bool) -> None:
    rgb = picture.rgb
    mesh = found.mesh if calm and found.mesh.found else None
    if found.lattice is not None or mesh is not None:
        cleaned = suppress(rgb[0], found.lattice, reference, mesh)
        rgb = (dithered(cleaned) if picture.depth == 8 else cleaned)[None]
    write_picture(path, replace(picture, rgb=rgb))


def _write_report(path: Path, picture: Picture, found: Inspection) -> None:
    report = as_picture(draw_report(picture.rgb[0], found))
    write_atomically(path.with_suffix(".png"), lambda file: report.save(file, "png"))
