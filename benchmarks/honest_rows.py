"""What each part of the bundled model does, on pairs of real photographs: the rows of docs/evaluation.md.

    python benchmarks/honest_rows.py -o FOLDER [--pairs DIR] [--teacher FILE.param] [--sheet FILE.png] [--limit N]

DIR holds lr/ and hr/ of equal names (default: the shared RealSR pairs). Writes every result below FOLDER, prints a
Markdown table of medians with the seconds of a row's pictures, a second one of Wilcoxon's p against the model, and
makes a sheet of eight crops with --sheet.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from scipy.stats import wilcoxon
from torch import Tensor

from op4ksr_core.evaluate.metrics import METRICS, Tiles
from op4ksr_core.geometry import Size
from op4ksr_core.picture.before_after import detail_corner
from op4ksr_core.picture.convert import as_picture
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.picture.write import write_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, RopeSettings, with_strength

sys.path.insert(0, str(Path(__file__).parent.parent))
from recipes.embedded.teacher import Graph, teach  # noqa: E402

PAIRS = Path(__file__).parent.parent.parent / "shared" / "data" / "realsr"
NAMES = ("psnr", "ssim", "gmsd", "detail", "right", "niqe", "periodicity")
MODEL = "the model"
SHOWN = ("Lanczos", MODEL, "teacher", "truth")
Row = Callable[[Tensor, Tensor], Tensor]
"""(small, truth) -> the row's picture."""


def rows_of(teacher: Path | None) -> dict[str, Row]:
    upscaler = Upscaler.from_embedded(check_memory=False)
    usual, transform = PRESETS["embedded"], upscaler.host.transform

    def restored(**changes: object) -> Row:
        return lambda lr, hr: upscaler(lr, settings=replace(usual, **changes), target=Size(*hr.shape[-2:]))

    def without_transformer(row: Row) -> Row:
        def made(lr: Tensor, hr: Tensor) -> Tensor:
            upscaler.host.transform = lambda z, *_: z  # velocity 0
            try:
                return row(lr, hr)
            finally:
                upscaler.host.transform = transform

        return made

    alone = restored(fidelity=0.0, colour="none", compensation=0.0)
    rows: dict[str, Row] = {
        "Lanczos": lambda lr, hr: lanczos(lr, Size(*hr.shape[-2:])).clamp(0, 1),
        MODEL: restored(),
        "transformer off": without_transformer(restored()),
        "theta 10,000": restored(rope=RopeSettings(theta=10_000.0)),
        "no compensation": restored(compensation=0.0),
        "no compensation, transformer off": without_transformer(restored(compensation=0.0)),
        "no fidelity": restored(fidelity=0.0),
        "neither": restored(compensation=0.0, fidelity=0.0),
        "VAE alone, of the truth": without_transformer(lambda lr, hr: alone(hr, hr)),
    }
    for strength in (0.0, 0.5, 1.5, 2.0):
        rows[f"strength {strength:g}"] = restored(**vars(with_strength(usual, strength)))
    if teacher:
        network = Graph(teacher)
        rows["teacher"] = lambda lr, hr: teach(network, lr)[..., : hr.shape[-2], : hr.shape[-1]]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    args = parser.parse_args()
    pairs = list(zip(sorted((args.pairs / "lr").iterdir()), sorted((args.pairs / "hr").iterdir()), strict=True))
    pairs = pairs[: args.limit]
    print("| row | " + " | ".join(METRICS[name].heading for name in NAMES) + " | s |")
    print("|---" * (2 + len(NAMES)) + "|")
    found: dict[str, dict[str, list[float]]] = {}
    for name, row in rows_of(args.teacher).items():
        values, started = {metric: [] for metric in NAMES}, time.perf_counter()
        found[name] = values
        for small, large in pairs:
            made = row(read_picture(small).rgb, read_picture(large).rgb)
            (args.output / name).mkdir(parents=True, exist_ok=True)
            write_picture(args.output / name / f"{large.stem}.png", Picture(made))
        seconds = time.perf_counter() - started
        for _, large in pairs:
            made = read_picture(args.output / name / f"{large.stem}.png").rgb
            for metric in NAMES:
                values[metric].append(METRICS[metric](made, read_picture(large).rgb, Tiles()))
        shown = [f"{statistics.median(values[metric]):.4g}" for metric in NAMES]
        print(f"| {name} | " + " | ".join(shown) + f" | {seconds:.0f} |", flush=True)
    print("\n| p against the model | " + " | ".join(NAMES) + " |" + "\n|---" + "|---" * len(NAMES) + "|")
    for name, values in found.items():
        if name != MODEL:
            changes = [compared(values[metric], found[MODEL][metric]) for metric in NAMES]
            print(f"| {name} | " + " | ".join(changes) + " |", flush=True)
    if args.sheet:
        sheet(args.output, [large for _, large in pairs], args.sheet)


def compared(row: list[float], model: list[float]) -> str:
    """Wilcoxon's p, and in how many pictures the row's value is the greater; a dash where nothing differs."""
    more = sum(a > b for a, b in zip(row, model, strict=True))
    return f"{wilcoxon(row, model).pvalue:.2g} (greater in {more})" if row != model else "-"


def sheet(folder: Path, truths: list[Path], to: Path, side: int = 192, count: int = 8) -> None:
    """Crops at 1:1, a picture per column: Lanczos, the model, the teacher, the truth."""
    kinds = [name for name in SHOWN if name == "truth" or (folder / name).is_dir()]
    chosen = truths[:: max(1, len(truths) // count)][:count]
    image = Image.new("RGB", (90 + count * (side + 6), len(kinds) * (side + 6)), "white")
    draw = ImageDraw.Draw(image)
    for column, path in enumerate(chosen):
        truth = as_picture(read_picture(path).rgb[0])
        left, top = detail_corner(truth, side)
        for line, kind in enumerate(kinds):
            shown = truth if kind == "truth" else as_picture(read_picture(folder / kind / f"{path.stem}.png").rgb[0])
            part = shown.crop((left, top, left + side, top + side))
            image.paste(part, (90 + column * (side + 6), line * (side + 6)))
            draw.text((4, line * (side + 6) + 4), kind, fill="black")
    image.save(to)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
