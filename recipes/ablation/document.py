"""The ablation's figures as `ablation.json`, the table in `ablation.md`, and two pictures."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.provenance import write_report
from op4ksr_core.lattice.autocorrelation import highpass
from op4ksr_core.picture.charts import COLOURS, INK, Axis, Chart, Curve, font

from .measuring import METRICS, SIZES, restored
from .training import ARMS, trained
from .world import TOKEN

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
"""Between these lines of the document the table is written anew."""

HEADINGS = {
    "lattice_db": "lattice, dB",
    "psnr": "PSNR",
    "psnr_windows": "in windows",
    "gmsd": "GMSD",
    "niqe": "NIQE",
    "texture": "texture",
}


def rows(run: Path, seeds: int, arms: Sequence[str] = tuple(ARMS)) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, by arm: `lattice_db_mean`, `psnr_4x_sd` ... (without 4x: the trained size).
    One seed has no deviation."""
    found = []
    for name in arms:
        runs = [json.loads((run / f"{name}-{seed}.json").read_text()) for seed in range(seeds)]
        row: dict[str, Any] = {"arm": name, "seeds": seeds}
        for size in SIZES:
            for metric in METRICS:
                values = [one[size][metric] for one in runs]
                key = metric if size == "trained" else f"{metric}_{size}"
                row[f"{key}_mean"] = round(statistics.mean(values), 4)
                if seeds > 1:
                    row[f"{key}_sd"] = round(statistics.stdev(values), 4)
        found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row per arm, mean and in brackets the deviation between seeds; first the trained size, then four
    times its tokens a side."""
    columns = [(size, m) for size in SIZES for m in METRICS if (size, m) != ("trained", "psnr_windows")]
    heads = [f"{HEADINGS[m]}{'' if size == 'trained' else ' at 4x'}" for size, m in columns]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for row in found:
        cells = []
        for size, metric in columns:
            key = metric if size == "trained" else f"{metric}_{size}"
            digits = 4 if metric == "gmsd" else 2
            cells.append(f"{row[f'{key}_mean']:.{digits}f} ({row[f'{key}_sd']:.{digits}f})")
        lines.append(f"| {row['arm']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spectrum(x: Tensor) -> list[tuple[float, float]]:
    """(cycles per token, dB) of the high band along a row, mean over rows and pictures (B, 1, H, W)."""
    band = highpass(x)[:, 0]
    power = torch.fft.rfft(band, dim=-1).abs().square().mean((0, 1)) / band.shape[-1]
    decibels = 10 * torch.log10(power + 1e-9)
    return [(n * TOKEN / band.shape[-1], float(value)) for n, value in enumerate(decibels) if n]


def crops(run: Path, size: str = "4x", side: int = 128) -> Image.Image:
    """A busy corner of a held-out picture under every arm of seed 0, twice as large, with its high band below."""
    parts: list[tuple[str, Tensor]] = []
    for name in ARMS:
        blurred, made, truth = restored(trained(ARMS[name], run / f"{name}-0.pt"), size)
        parts.append((name, made[0, 0]))
    parts = [("enlarged", blurred[0, 0]), ("truth", truth[0, 0]), *parts]
    energy = torch.nn.functional.avg_pool2d(highpass(truth[:1]).square(), side, side // 2)[0, 0]
    top, left = (int(i) * side // 2 for i in divmod(int(energy.argmax()), energy.shape[1]))
    sheet = Image.new("L", (len(parts) * (2 * side + 8) + 8, 4 * side + 44), 255)
    for n, (name, picture) in enumerate(parts):
        x = 8 + n * (2 * side + 8)
        ImageDraw.Draw(sheet).text((x, 6), name, fill=INK, font=font(15))
        cut = picture[top : top + side, left : left + side]
        high = highpass(picture[None, None])[0, 0, top : top + side, left : left + side]
        for row, values in enumerate((cut, 0.5 + 6 * high)):
            shown = Image.fromarray((255 * values.clamp(0, 1)).round().byte().numpy())
            sheet.paste(shown.resize((2 * side, 2 * side), Image.Resampling.NEAREST), (x, 28 + row * (2 * side + 8)))
    return sheet


def spectra(run: Path) -> Image.Image:
    """The high band's power along rows, a curve per arm of seed 0, at the trained size."""
    curves, truth = [], None
    for n, name in enumerate(ARMS):
        _, made, truth = restored(trained(ARMS[name], run / f"{name}-0.pt"), "trained")
        curves.append(Curve(spectrum(made), COLOURS[n], name))
    assert truth is not None
    curves.append(Curve(spectrum(truth), INK, "truth", width=3))
    values = [y for curve in curves for _, y in curve.points]
    chart = Chart(
        "Power of the high band along rows, 16 tokens a side, seed 0",
        Axis("cycles per token", 0, 4),
        Axis("dB", min(values) - 2, max(values) + 2),
        curves,
    )
    return chart.draw(1000, 480)


def write(run: Path, docs: Path, seeds: int) -> None:
    """`ablation.json`, the table between the marks of `ablation.md`, `ablation_spectra.png`, `ablation_crops.png`."""
    found = rows(run, seeds)
    docs.mkdir(parents=True, exist_ok=True)
    write_report(docs / "ablation.json", {"rows": found})
    page = docs / "ablation.md"
    if page.exists():
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.partition(END)[2]}")
    spectra(run).save(docs / "ablation_spectra.png")
    crops(run).save(docs / "ablation_crops.png")
