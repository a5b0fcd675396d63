"""The tables of results in the documents, from docs/results.

    python -m recipes.results_tables

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; NAME is one of TABLES. Those of TIMED
come from performance.json, which is measured on an idle machine; until it is there, they stay as they are.
"""

import re
import statistics
from collections.abc import Callable

from scipy.stats import wilcoxon

from op4ksr_core.evaluate.metrics import METRICS
from op4ksr_core.wishes import CONTENTS

from . import inspector_tables, method_tables, results_files
from .results_files import ROOT, read, table

PAGES = (
    "README.md",
    "docs/ablation.md",
    "docs/cli.md",
    "docs/evaluation.md",
    "docs/lab/protect.md",
    "docs/lab/speed.md",
    "docs/method.md",
    "docs/nodes.md",
    "docs/performance.md",
    "docs/periodicity.md",
    "docs/results.md",
    "docs/training.md",
    "op4ksr_core/assets/embedded/MODEL_CARD.md",
)

PERFORMANCE = "performance.json"
"""Seconds and memory, by benchmarks/performance.py."""

MEASURES = ("psnr", "ssim", "gmsd", "hf_energy_db", "hf_correlation", "niqe", "periodicity")
NAMES = {"the model": "this", "peer": "realesr-general-x4v3"}
"""What readers call the rows."""


PEER_TIMED = "realesr-general-x4v3 by ncnn"
"""The peer's row in performance.json, as benchmarks/performance.py writes it."""


def means(file: str, rows: tuple[str, ...]) -> str:
    """Means of some rows, a row a line."""
    found = read(file)["rows"]
    lines = [_head("method", "soft ‰ ↓")]
    for name in rows:
        mean = found[name]["mean"]
        lines.append(_row(NAMES.get(name, name), [*map(mean.get, MEASURES), f"{mean['soft']:.1f}"]))
    return "\n".join(lines) + "\n"


def medians(file: str) -> str:
    """Medians of all rows; of texture in soft areas the mean and the worst picture."""
    found = read(file)["rows"]
    lines = [_head("row", "soft ‰ ↓, worst")]
    for name, row in found.items():
        soft = [one["soft"] for one in row["pictures"].values() if one["soft"] is not None]
        cells = [*map(row["median"].get, MEASURES), f"{statistics.fmean(soft):.2f}, {max(soft):.1f}"]
        lines.append(_row(name, cells))
    return "\n".join(lines) + "\n"


LESS_IS_WORSE = {"psnr": True, "gmsd": False, "hf_energy_db": True, "hf_correlation": True, "niqe": False}
"""Measures of `comparisons`, and whether a smaller value is the worse one (of sharpness: the softer one)."""


def comparisons() -> str:
    """In how many pictures a row is worse than the model, with Wilcoxon's p."""
    rows = []
    for kind, file in (("RealSR", "rows_realsr.json"), ("held out", "rows_held_out.json")):
        found = read(file)["rows"]
        model = list(found["the model"]["pictures"].values())
        for name in ("transformer off", "peer"):
            other = list(found[name]["pictures"].values())
            rows.append([f"{name}, {kind}", *(_worse(m, other, model) for m in LESS_IS_WORSE)])
    headings = ["", "lower PSNR", "worse GMSD", "softer", "less of the detail right", "worse NIQE"]
    return table(headings, rows)


def _worse(measure: str, other: list[dict], model: list[dict]) -> str:
    ours, theirs = ([picture[measure] for picture in row] for row in (model, other))
    less = LESS_IS_WORSE[measure]
    count = sum((b < a) if less else (b > a) for a, b in zip(ours, theirs, strict=True))
    return f"{count} of {len(ours)} (p {wilcoxon(theirs, ours).pvalue:.1g})"


ALTERNATIVES = (
    ("plain enlarging (Lanczos)", "Lanczos", None, "nothing"),
    ("**the bundled model**", "the model", "bfloat16", "nothing: it comes with the pack and runs on any CPU"),
    ("a plain ESRGAN-type network (realesr-general-x4v3)", "peer", PEER_TIMED, "a model file"),
)
"""What a reader would use instead: its name, its row in rows_realsr.json and in performance.json, what it needs."""

NOT_RUN = (
    ("SeedVR2, in ComfyUI 0.33", "its model, its VAE and a GPU"),
    ("SUPIR", "its model, an SDXL checkpoint and a GPU"),
    ("UltimateSDUpscale", "a Stable Diffusion checkpoint and a GPU; redraws tile by tile"),
)


def alternatives() -> str:
    """The README's table: each in plain words, with its time where that was measured."""
    rows = read("rows_realsr.json")["rows"]
    timed = read(PERFORMANCE) if (results_files.RESULTS / PERFORMANCE).is_file() else {}
    headings = [
        "",
        "close to the original",
        "as sharp",
        "detail really there",
        "false texture",
        "needs",
    ]
    if timed:
        headings.insert(1, f"{timed['px']} px on a CPU")
    lines = []
    for name, row, run, needs in ALTERNATIVES:
        mean = rows[row]["mean"]
        sharp = f"{100 * 10 ** (mean['hf_energy_db'] / 20):.0f} %"
        cells = [f"{mean['psnr']:.1f} dB", sharp, f"{mean['hf_correlation']:.3f}", f"{mean['soft']:.1f} ‰", needs]
        lines.append([name, *([_time(timed["commands"].get(run))] if timed else []), *cells])
    for name, needs in NOT_RUN:
        lines.append([name, *["not run here"] * (len(headings) - 2), needs])
    return table(headings, lines)


def _time(row: dict | None) -> str:
    return f"{min(row['s']):.0f} s, {row['peak_gb']:.1f} GB" if row else "not measured"


def command_times() -> str:
    """A picture through the command line, and through the peer."""
    found = read(PERFORMANCE)
    rows = [
        [name, " and ".join(f"{s:.1f}" for s in row["s"]), f"{row['peak_gb']:.2f}"]
        for name, row in found["commands"].items()
    ]
    return table([f"to {found['px']} px", "s", "peak GB"], rows) + f"\n{_measured(found)}\n"


def time_and_memory() -> str:
    """Where the times of the README's table come from."""
    found = read(PERFORMANCE)
    side = found["px"] // 4
    return (
        f"Times are of {side}x{side} to {found['px']}x{found['px']} px, reading, writing and the lattice check "
        f"included. {_measured(found)}\n"
    )


def passes() -> str:
    """Seconds of each phase by the VAE's pass."""
    phases = {
        "encode": "encode s",
        "transform": "transform s",
        "decode": "decode s",
        "finish": "colour, fidelity s",
        "compensate": "compensation s",
        "total": "total s",
    }
    found = read(PERFORMANCE)
    rows = [
        [*name.split(), *(f"{row[phase]:.1f}" for phase in phases), f"{row['peak_gb']:.2f}"]
        for name, row in found["passes"].items()
    ]
    return table(["output px", "pass", *phases.values(), "peak GB"], rows) + f"\n{_measured(found)}\n"


def start() -> str:
    """What a user waits for before and with the first picture."""
    found = read(PERFORMANCE)
    rows = [[name, f"{seconds:.2f}"] for name, seconds in found["start"].items()]
    return table(["256 -> 1024 px", "s"], rows) + f"\n{_measured(found)}\n"


def inspector_times() -> str:
    """Processor time by side."""
    columns = ("alone", "with the small picture", "suppression")
    found = read(PERFORMANCE)
    rows = [[side, *(f"{row[c]:.2f}" for c in columns)] for side, row in found["inspector"].items()]
    return table(["side, px", *columns], rows) + f"\n{_measured(found)}\n"


def edges() -> str:
    """The pictures that the model was not made for."""
    rows = []
    for name, row in read("edges.json")["rows"].items():
        lattice = f"{row['lattice']:.2f} ({row['lattice_lanczos']:.2f})" if "lattice" in row else "too small"
        wide = f"{row['halo_px']} ({row['halo_px_plain']})" if "halo_px" in row else ""
        rows.append([name, "yes" if row["finite"] else "NO", f"{row['mean_shift_255']:.2f}", lattice, wide])
    return table(["picture", "finite", "mean colour moves by, 1/255", "lattice (Lanczos)", "halo, px (plain)"], rows)


def content() -> str:
    """What each content sets, and what that does to one picture."""
    rows = []
    for name, row in read("content.json")["rows"].items():
        said = CONTENTS[name]
        cells = [
            f"{said[key]:g}" if isinstance(said.get(key), float) else said.get(key, "")
            for key in ("strength", "protect", "denoise")
        ]
        rows.append([name, *cells, f"{row['preset']:.2f}", f"{row['with content']:.2f}"])
    return table(["content", "strength", "protect", "denoise", "preset alone, dB", "with it, dB"], rows)


def sigma() -> str:
    """The bundled model under several sigmas, and the sigma that fits the pairs."""
    found = read("sigma.json")
    rows = [
        [name, f"{row['psnr']:.2f}", f"{row['hf_energy_db']:.2f}", f"{row['hf_correlation']:.3f}"]
        for name, row in found["rows"].items()
    ]
    medians_by_sigma = table(["sigma", "PSNR", "HF energy, dB", "HF correlation"], rows)
    fitting = (
        f"OMGSR's estimator gives {found['estimated']:.3f} for these pairs, `r / (1 + r)` {found['closed_form']:.3f}."
    )
    return f"{medians_by_sigma}\n{fitting}\n"


def denoise() -> str:
    """What the denoiser takes out, PSNR."""
    rows = [
        [name, "inf" if row["before"] is None else f"{row['before']:.2f}", f"{row['after']:.2f}"]
        for name, row in read("denoise.json")["rows"].items()
    ]
    return table(["picture", "before dB", "after dB"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "RealSR means": lambda: means("rows_realsr.json", ("Lanczos", "the model", "peer")),
    "RealSR medians": lambda: medians("rows_realsr.json"),
    "held-out medians": lambda: medians("rows_held_out.json"),
    "comparisons": comparisons,
    "alternatives": alternatives,
    "edges": edges,
    "content": content,
    "sigma": sigma,
    "denoise": denoise,
    "time and memory": time_and_memory,
    "command times": command_times,
    "VAE passes": passes,
    "start": start,
    "inspector times": inspector_times,
    "inspector, clean": inspector_tables.clean,
    "inspector, area": inspector_tables.area,
    "inspector, found": inspector_tables.found,
    "inspector, left": inspector_tables.left,
    "inspector, treated": inspector_tables.treated,
    "RoPE bases": method_tables.rope_bases,
    "slopes": method_tables.slopes,
    "fp8 error": method_tables.fp8_error,
    "full size on a card": method_tables.full_size_on_a_card,
    "training memory": method_tables.training_memory,
    "training operations": method_tables.training_operations,
    "growth": method_tables.growth,
    "consistency": method_tables.consistency,
    "trial": method_tables.trial,
    "curate": method_tables.curate,
}

TIMED = ("time and memory", "command times", "VAE passes", "start", "inspector times")
"""Tables that need performance.json."""

_DIGITS = {"psnr": 2, "ssim": 3, "gmsd": 3, "hf_energy_db": 1, "hf_correlation": 3, "niqe": 2, "periodicity": 3}


def _head(first: str, last: str) -> str:
    headings = [first, *(METRICS[name].heading for name in MEASURES), last]
    return f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|"


def _row(name: str, cells: list) -> str:
    numbers = [f"{value:.{_DIGITS[m]}f}" for m, value in zip(MEASURES, cells[:-1], strict=True)]
    return f"| {name} | {' | '.join([*numbers, cells[-1]])} |"


def _measured(found: dict) -> str:
    threads = f"{found['threads']} thread" + "s" * (found["threads"] > 1)
    where = f"{threads} of {found['machine']}, torch {found['torch']}, commit {found['commit']}"
    return f"Measured on {found['date']} with {where}."


def with_tables(page: str) -> str:
    """The page with every table as the data say. Raises KeyError on the name of a table that there is not."""
    marked = re.compile(r"(<!-- results: (.+?) -->\n)(.*?)(<!-- end of results -->)", re.DOTALL)
    return marked.sub(_filled, page)


def _filled(found: re.Match) -> str:
    name = found[2]
    if name in TIMED and not (results_files.RESULTS / PERFORMANCE).is_file():
        return found[0]
    return f"{found[1]}\n{TABLES[name]()}\n{found[4]}"


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(with_tables(path.read_text()))
