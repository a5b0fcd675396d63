"""How well the inspector tells lattices from pictures, with the small picture and without, and what suppression does.

    PYTHONPATH=. python benchmarks/inspector.py SHARED [--set report|calibration] [--photos 150] [--out FILE.json]

SHARED is the folder that holds data/realsr, data/photos and data/train. Limits were set on the calibration set; the
figures to quote are the report set's. `inspector_pictures.py` says which picture is in which.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from inspector_pictures import (
    CALIBRATION,
    FORMS,
    REPORT,
    Sample,
    jpeg,
    lattice,
    patterns,
    photographs,
    planted,
    quarter,
    resized,
    smooth_scene,
)
from torch import Tensor

from benchmarks.provenance import provenance
from op4ksr_core.evaluate.measures import psnr_of_colour
from op4ksr_core.lattice.inspector import Inspection, inspect
from op4ksr_core.lattice.suppress import suppress
from op4ksr_core.picture.read import read_picture

PERIODS = (8, 16, 31, 32, 48, 64)

FINEST_HELD = 8
"""px, two px of the small picture: it cannot hold what repeats in 8 px or less (Nyquist). Such a pattern is new beside
it, so with the small picture it is rightly called added, whoever drew it. It is counted apart."""


def both(image: Tensor, small: Tensor) -> dict[str, Inspection]:
    return {"alone": inspect(image), "referenced": inspect(image, small)}


def clean(samples: Sequence[Sample]) -> dict:
    """Verdicts on clean pictures by kind, what is called a lattice, and the worst change by the suppressor."""
    counts: dict[str, Counter] = {}
    called, worst, scores = [], float("inf"), {"alone": [], "referenced": []}
    for sample in samples:
        for basis, found in both(sample.image, sample.small).items():
            counts.setdefault(f"{sample.kind}, {basis}", Counter())[found.verdict] += 1
            if found.mesh.found:
                counts[f"{sample.kind}, {basis}"]["mesh"] += 1
            scores[basis].append(found.score)
            if found.lattice is None:
                continue
            small = sample.small if basis == "referenced" else None
            changed = psnr_of_colour(suppress(sample.image, found.lattice, small), sample.image)
            worst = min(worst, changed)
            called.append(
                {
                    "name": sample.name,
                    "basis": basis,
                    "period": round(found.period, 2),
                    "amplitude": round(found.amplitude, 2),
                    "psnr": round(changed, 1),
                }
            )
    return {
        "pictures": len(samples),
        "verdicts": {kind: dict(count) for kind, count in counts.items()},
        "called_lattice": called,
        "called_share": {
            basis: sum(one["basis"] == basis for one in called) / len(samples) for basis in ("alone", "referenced")
        },
        "referenced_and_held": [
            one["name"] for one in called if one["basis"] == "referenced" and one["period"] > FINEST_HELD
        ],
        "worst_psnr_after_suppression": None if worst == float("inf") else worst,
        "scores": scores,
    }


AMPLITUDES = (0.5, 1.0, 4.0, 8.0)
"""1/255, of planted lattices."""

TOLD = ("roc_area", "forms", "treated", "ultraflux", "osediff", "seconds")
"""Figures that are printed at the end."""


def found_in(pictures: Sequence[tuple[Tensor, Tensor]], amplitudes: Sequence[float], periods: Sequence[int]) -> dict:
    """How many planted lattices are found with the right period, and all their scores."""
    rows: dict[str, dict] = {}
    for period in periods:
        for amplitude in amplitudes:
            right, scores = Counter(), {"alone": [], "referenced": []}
            for n, (x, small) in enumerate(pictures):
                y = planted(x, period, amplitude, FORMS[n % 2])
                for basis, found in both(y, small).items():
                    right[basis] += found.verdict == "lattice" and abs(found.period - period) < 0.6
                    scores[basis].append(round(found.score, 3))
            name = f"{period} px, {amplitude:g}/255"
            rows[name] = {"of": len(pictures), **{basis: right[basis] for basis in scores}, "scores": scores}
            print(name, dict(right), "of", len(pictures), flush=True)
    return rows


def forms(x: Tensor) -> dict:
    """Period found, and energy left after suppression, of lines, crosses, cells and woven patterns of 6/255."""
    rows, small = {}, quarter(x)
    for form in FORMS:
        for period in (16, 24, 32):
            y = planted(x, period, 6.0, form)
            wave = lattice(x.shape, period, form)
            wave = wave - wave.mean()
            row = rows[f"{form}, {period} px"] = {}
            for basis, reference in {"alone": None, "referenced": small}.items():
                found = inspect(y, reference)
                cleaned = suppress(y, found.lattice, reference)
                before, after = (float(((p - x).mean(0) * wave).sum()) for p in (y, cleaned))
                row[basis] = {"period": found.period, "left": round((after / before) ** 2, 4)}
    return rows


def treated(x: Tensor) -> dict:
    """A woven lattice of 16 px and 2/255 after JPEG, a resize or a crop: verdict and period."""
    y = planted(x, 16, 2.0)
    made = {
        "JPEG 95": (jpeg(y, 95), 16.0),
        "JPEG 75": (jpeg(y, 75), 16.0),
        "JPEG 60": (jpeg(y, 60), 16.0),
        "resized by 0.9": (resized(y, 0.9), 14.4),
        "cropped by 5 and 3 px": (y[:, 5:, 3:].contiguous(), 16.0),
    }
    rows = {}
    for name, (picture, period) in made.items():
        found = inspect(picture)
        rows[name] = {"verdict": found.verdict, "period": round(found.period, 2), "wanted": period}
    return rows


def area_under_curve(clean_scores: Sequence[float], planted_scores: Sequence[float]) -> float:
    """Area under the ROC curve of the score: the chance that a planted lattice scores above a clean picture."""
    a, b = torch.tensor(planted_scores)[:, None], torch.tensor(clean_scores)
    return float(((a > b).float() + 0.5 * (a == b).float()).mean())


def roc(clean_figures: dict, planted_figures: dict) -> dict:
    """Area under the curve by basis, over all planted lattices of 1/255 and more."""
    rows = planted_figures.values()
    return {
        basis: round(area_under_curve(scores, [s for row in rows for s in row["scores"][basis]]), 4)
        for basis, scores in clean_figures["scores"].items()
    }


def one_step(folder: Path) -> dict:
    """Pictures that OSEDiff released, and the small ones that they were made from (a checkout of cswry/OSEDiff)."""
    base = folder.expanduser() / "preset/datasets/benchmark_realsr"
    made = sorted((base / "results_osediff").glob("*.png"))
    verdicts: dict[str, Counter] = {"alone": Counter(), "referenced": Counter()}
    for path in made:
        picture, small = (read_picture(one).rgb[0] for one in (path, base / "test_LR" / path.name))
        verdicts["alone"][inspect(picture).verdict] += 1
        known = inspect(picture, small)
        verdicts["referenced"][known.verdict] += 1
        verdicts["referenced"]["mesh"] += known.mesh.found
    return {"pictures": len(made)} | {basis: dict(found) for basis, found in verdicts.items()}


def ultraflux(folder: Path) -> list[dict]:
    rows = []
    for path in sorted(folder.glob("*.jpeg")):
        found = inspect(read_picture(path).rgb[0])
        rows.append({"file": path.name, "verdict": found.verdict, "period": found.period, "score": found.score})
    return rows


def _write(path: Path | None, figures: dict) -> None:
    """What is measured so far."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--set", choices=(REPORT, CALIBRATION), default=REPORT, dest="wanted")
    parser.add_argument("--photos", type=int, default=150, help="clean photographs at most (default 150)")
    parser.add_argument("--patterns", type=int, default=6, help="of each kind of drawn pattern (default 6)")
    parser.add_argument("--planted", type=int, default=4, help="textured photographs that lattices are planted in")
    parser.add_argument("--osediff", type=Path, help="checkout of cswry/OSEDiff, whose released pictures are looked at")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    every = list(photographs(arguments.shared, arguments.wanted))
    photos = every[:: max(1, len(every) // arguments.photos)][: arguments.photos]
    drawn = list(patterns(arguments.wanted, arguments.patterns, photos))
    figures: dict = {**provenance()}
    figures["set"] = arguments.wanted
    figures["clean"] = clean([*photos, *drawn])
    figures["clean"]["photographs"], figures["clean"]["drawn"] = len(photos), len(drawn)
    print(json.dumps({k: v for k, v in figures["clean"].items() if k != "scores"}, indent=1), flush=True)
    seeds = (161, 162, 163, 164) if arguments.wanted == REPORT else (1, 2, 3, 4)
    smooth = [(x, quarter(x)) for x in map(smooth_scene, seeds)]
    _write(arguments.out, figures)
    figures["smooth"] = found_in(smooth, AMPLITUDES, PERIODS)
    textured = [(one.image, one.small) for one in photos[:: max(1, len(photos) // arguments.planted)]]
    figures["textured"] = found_in(textured[: arguments.planted], AMPLITUDES, (16, 32, 64))
    figures["roc_area"] = roc(figures["clean"], figures["smooth"] | figures["textured"])
    figures["forms"] = forms(smooth[0][0])
    figures["treated"] = treated(smooth[0][0])
    _write(arguments.out, figures)
    figures["ultraflux"] = ultraflux(arguments.shared / "data/uhd")
    if arguments.osediff:
        figures["osediff"] = one_step(arguments.osediff)
    figures["seconds"] = round(time.perf_counter() - started)
    _write(arguments.out, figures)
    print(json.dumps({k: figures[k] for k in TOLD if k in figures}, indent=1))


if __name__ == "__main__":
    main()
