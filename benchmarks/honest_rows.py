"""What each part of the bundled model does, on pairs of real photographs: the rows of docs/results.md.

    python benchmarks/honest_rows.py -o FOLDER [--pairs DIR] [--peer FILE.param] [--teacher FILE.param]
        [--photos DIR...] [--rows NAME,NAME...] [--json FILE] [--sheet FILE.png] [--limit N]

DIR holds lr/ and hr/ of equal names (default: the shared RealSR pairs). With --photos the pairs are made of the
photographs that the recipe holds out (`recipes/embedded/held_out.txt`): their middle 512 px, degraded lightly. Writes
every result below FOLDER, prints a Markdown table of medians with the seconds of a row's pictures, a second one of
Wilcoxon's p against the model, and makes a sheet of eight crops with --sheet. --json keeps medians, means and every
picture's values with the command, the machine and the commit.

*soft* is the share of the truth's soft area in which the result has texture, in per mille: detail (luma less its mean
over 5 px) whose deviation over 15 px is below 1/255 in the truth and above 2.5/255 in the result.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import uniform_filter
from scipy.stats import wilcoxon
from torch import Tensor

from op4ksr_core.evaluate.metrics import METRICS, Tiles
from op4ksr_core.geometry import Size
from op4ksr_core.picture.before_after import detail_corner
from op4ksr_core.picture.convert import as_picture, as_tensor
from op4ksr_core.picture.luma import FULL_RANGE
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.picture.write import write_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, RopeSettings, with_strength

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.provenance import provenance  # noqa: E402
from recipes.embedded.pictures import HELD_OUT, LIGHT, degraded  # noqa: E402
from recipes.embedded.teacher import Graph, teach  # noqa: E402

PAIRS = Path(__file__).parent.parent.parent / "shared" / "data" / "realsr"
NAMES = ("psnr", "ssim", "gmsd", "hf_energy_db", "hf_correlation", "niqe", "periodicity")
SOFT, DRAWN, LEAST_SOFT = 1.0, 2.5, 0.02
MODEL = "the model"
SHOWN = ("Lanczos", MODEL, "peer", "truth")
Pairs = list[tuple[str, Tensor, Tensor]]
"""Name, small and true picture."""

Row = Callable[[Tensor, Tensor], Tensor]
"""(small, truth) -> the row's picture."""


def rows_of(others: dict[str, Path | None]) -> dict[str, Row]:
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
    for name, file in others.items():
        if file is not None:
            rows[name] = _by(Graph(file))
    return rows


def _by(network: torch.nn.Module) -> Row:
    return lambda lr, hr: teach(network, lr)[..., : hr.shape[-2], : hr.shape[-1]]


def strength(picture: Tensor) -> np.ndarray:
    """(1, 3, H, W) -> (H, W): how strong the detail is around each px, in 1/255."""
    luma = picture[0].double().permute(1, 2, 0).numpy() * 255 @ FULL_RANGE
    return np.sqrt(np.maximum(uniform_filter((luma - uniform_filter(luma, 5)) ** 2, 15), 0))


def soft_texture(made: Tensor, truth: Tensor) -> float | None:
    """Per mille of the truth's soft area with texture; None where there is hardly any."""
    soft = strength(truth) < SOFT
    return 1000 * float((strength(made)[soft] > DRAWN).mean()) if soft.mean() > LEAST_SOFT else None


def real_pairs(folder: Path) -> Pairs:
    files = zip(sorted((folder / "lr").iterdir()), sorted((folder / "hr").iterdir()), strict=True)
    return [(large.stem, read_picture(small).rgb, read_picture(large).rgb) for small, large in files]


def held_out_pairs(folders: list[Path]) -> Pairs:
    files = [f for folder in folders for f in sorted(folder.glob("*.jpg")) if f.stem in HELD_OUT]
    pairs = []
    for file in files:
        truth = as_tensor(Image.open(file).convert("RGB"))[None]
        height, width = (min(512, side // 32 * 32) for side in truth.shape[-2:])
        top, left = (truth.shape[-2] - height) // 2, (truth.shape[-1] - width) // 2
        truth = truth[..., top : top + height, left : left + width].contiguous()
        pairs.append((file.stem, degraded(truth, random.Random(file.stem), LIGHT), truth))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--peer", type=Path, help="realesr-general-x4v3, to compare with")
    parser.add_argument("--teacher", type=Path, help="RealESRGAN_x4plus")
    parser.add_argument("--photos", type=Path, nargs="+", help="held-out photographs below these folders, not pairs")
    parser.add_argument("--rows", help="only these, with commas between")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    args = parser.parse_args()
    pairs = held_out_pairs(args.photos) if args.photos else real_pairs(args.pairs)
    pairs = pairs[: args.limit]
    print("| row | " + " | ".join(METRICS[name].heading for name in NAMES) + " | soft, worst | s |")
    print("|---" * (3 + len(NAMES)) + "|")
    found: dict[str, dict[str, list[float]]] = {}
    wanted = args.rows.split(",") if args.rows else None
    for name, row in rows_of({"peer": args.peer, "teacher": args.teacher}).items():
        if wanted is not None and name not in wanted:
            continue
        found[name], seconds = measured(row, pairs, args.output / name)
        shown = [f"{statistics.median(found[name][metric]):.4g}" for metric in NAMES]
        soft = [value for value in found[name]["soft"] if value is not None]
        shown.append(f"{statistics.fmean(soft):.2f}, {max(soft):.1f}" if soft else "-")
        print(f"| {name} | " + " | ".join(shown) + f" | {seconds:.0f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(report(found, [name for name, *_ in pairs]), indent=1) + "\n")
    if MODEL not in found:
        return
    print("\n| p against the model | " + " | ".join(NAMES) + " |" + "\n|---" + "|---" * len(NAMES) + "|")
    for name, values in found.items():
        if name != MODEL:
            changes = [compared(values[metric], found[MODEL][metric]) for metric in NAMES]
            print(f"| {name} | " + " | ".join(changes) + " |", flush=True)
    if args.sheet:
        sheet(args.output, pairs, args.sheet)


def measured(row: Row, pairs: Pairs, folder: Path) -> tuple[dict[str, list], float]:
    """Every metric of every picture, as it was written and read again, and the seconds that making them took."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for name, small, truth in pairs:
        write_picture(folder / f"{name}.png", Picture(row(small, truth)))
    seconds = time.perf_counter() - started
    values: dict[str, list] = {metric: [] for metric in (*NAMES, "soft")}
    for name, _, truth in pairs:
        made = read_picture(folder / f"{name}.png").rgb
        for metric in NAMES:
            values[metric].append(METRICS[metric](made, truth, Tiles()))
        values["soft"].append(soft_texture(made, truth))
    return values, seconds


def report(found: dict[str, dict[str, list]], names: list[str]) -> dict:
    """What --json writes."""
    rows = {}
    for name, values in found.items():
        known = {metric: [v for v in column if v is not None] for metric, column in values.items()}
        rows[name] = {
            "median": {metric: round(statistics.median(v), 4) for metric, v in known.items() if v},
            "mean": {metric: round(statistics.fmean(v), 4) for metric, v in known.items() if v},
            "pictures": {n: {m: column[i] for m, column in values.items()} for i, n in enumerate(names)},
        }
    return provenance() | {"pictures": len(names), "rows": rows}


def compared(row: list[float], model: list[float]) -> str:
    """Wilcoxon's p, and in how many pictures the row's value is the greater; a dash where nothing differs."""
    more = sum(a > b for a, b in zip(row, model, strict=True))
    return f"{wilcoxon(row, model).pvalue:.2g} (greater in {more})" if row != model else "-"


def sheet(folder: Path, pairs: Pairs, to: Path, side: int = 192, count: int = 8) -> None:
    """Crops at 1:1, a picture per column: Lanczos, the model, the peer, the truth."""
    kinds = [name for name in SHOWN if name == "truth" or (folder / name).is_dir()]
    chosen = pairs[:: max(1, len(pairs) // count)][:count]
    image = Image.new("RGB", (90 + count * (side + 6), len(kinds) * (side + 6)), "white")
    draw = ImageDraw.Draw(image)
    for column, (name, _, large) in enumerate(chosen):
        truth = as_picture(large[0])
        left, top = detail_corner(truth, side)
        for line, kind in enumerate(kinds):
            shown = truth if kind == "truth" else as_picture(read_picture(folder / kind / f"{name}.png").rgb[0])
            part = shown.crop((left, top, left + side, top + side))
            image.paste(part, (90 + column * (side + 6), line * (side + 6)))
            draw.text((4, line * (side + 6) + 4), kind, fill="black")
    image.save(to)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
