"""The bundled model on pictures that it was not made for: flat, noise, text, line art, a face, a sharp photo, a hard
JPEG, a step, and pictures of 8 px.

    PYTHONPATH=. python benchmarks/edges.py [--sheet FILE.png] [--json docs/results/edges.json]

Prints for each, as 8-bit files hold it, whether all numbers are finite, how far the mean colour moves from the plain
(bicubic) enlargement's in 1/255, the lattice score beside that of Lanczos, and for the steps how far from the edge the
picture leaves its two levels by more than 4/255 (the plain enlargement's in brackets). The sheet shows Lanczos above,
the model below. --json keeps the figures for docs/results.md.
"""

import argparse
import io
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.provenance import write_report
from op4ksr_core.evaluate.measures import quantised
from op4ksr_core.geometry import Size
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.paths import ASSETS, DEMO_PHOTO
from op4ksr_core.picture.convert import as_picture, as_tensor
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import lanczos, resize
from op4ksr_core.pipeline.upscaler import Upscaler

SIDE, FACTOR = 96, 4
LEVELS = (0.2, 0.8)
HALO = 4 / 255
LEAST_INSPECTED = 128
"""px a side below which the inspector is not asked."""

ACROSS = {"step": -1, "step, downwards": -2}
"""The axis that a step lies across."""


def text() -> Tensor:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    for line, size in enumerate((8, 10, 12, 16, 20)):
        draw.text((3, 3 + line * 17), "Sphinx 0123", fill="black", font=ImageFont.load_default(size))
    return as_tensor(image)[None]


def line_art() -> Tensor:
    large = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    draw = ImageDraw.Draw(large)
    for number in range(6):
        box = [20 + 28 * number, 20 + 20 * number, 360 - 24 * number, 360 - 28 * number]
        draw.ellipse(box, outline="black", width=6)
        draw.line([0, 64 * number, 384, 384 - 48 * number], fill="black", width=5)
    return as_tensor(large.resize((SIDE, SIDE), Image.Resampling.BOX))[None]


def step() -> Tensor:
    picture = torch.full((1, 3, SIDE, SIDE), LEVELS[0])
    picture[..., SIDE // 2 :] = LEVELS[1]
    return picture


def photo(path: Path, left: int, top: int, quality: int = 0) -> Tensor:
    part = as_picture(read_picture(path).rgb[0]).crop((left, top, left + SIDE, top + SIDE))
    if quality:
        held = io.BytesIO()
        part.save(held, "JPEG", quality=quality)
        part = Image.open(held)
    return as_tensor(part)[None]


def pictures() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    astronaut = ASSETS / "demo" / "astronaut.png"
    face = resize(read_picture(astronaut).rgb[..., 0:288, 80:368], Size(SIDE, SIDE)).clamp(0, 1)
    return {
        "black": torch.zeros(1, 3, SIDE, SIDE),
        "grey": torch.full((1, 3, SIDE, SIDE), 0.42),
        "white": torch.ones(1, 3, SIDE, SIDE),
        "noise": torch.rand(1, 3, SIDE, SIDE, generator=generator),
        "text": text(),
        "line art": line_art(),
        "step": step(),
        "step, downwards": step().mT,
        "face": face,
        "sharp photo": photo(DEMO_PHOTO, 500, 250),
        "dark corner": photo(DEMO_PHOTO, 0, 0),
        "JPEG of quality 10": photo(DEMO_PHOTO, 500, 250, 10),
        "8 px": resize(face, Size(8, 8)).clamp(0, 1),
        "7 px (Lanczos)": resize(face, Size(7, 7)).clamp(0, 1),
    }


def halo(made: Tensor, across: int) -> int:
    """px from the step in the middle to the farthest px that is off its level by more than HALO; `across` the axis."""
    side = made.shape[across]
    ideal = torch.where(torch.arange(side) < side // 2, *LEVELS)
    ideal = ideal if across == -1 else ideal[:, None]
    away = (made - ideal).abs().amax((0, 1)).movedim(across, 0)[:, 64:-64].amax(1) > HALO
    away[:64] = away[-64:] = False
    where = away.nonzero()[:, 0]
    return int((where - side // 2 + (where < side // 2)).abs().max()) + 1 if len(where) else 0


def measured(name: str, made: Tensor, smooth: Tensor, plain: Tensor) -> dict:
    """The row of one picture: the model's, Lanczos' and the plain enlargement of it."""
    row: dict = {
        "finite": bool(made.isfinite().all()),
        "mean_shift_255": round(255 * float((made.mean((2, 3)) - plain.mean((2, 3))).abs().max()), 2),
    }
    if min(made.shape[-2:]) >= LEAST_INSPECTED:
        row |= {"lattice": round(inspect(made[0]).score, 2), "lattice_lanczos": round(inspect(smooth[0]).score, 2)}
    across = ACROSS.get(name)
    if across is not None:
        row |= {"halo_px": halo(made, across), "halo_px_plain": halo(plain, across)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    upscaler, shown = Upscaler.from_embedded(check_memory=False), []
    rows = {}
    for name, lr in pictures().items():
        size = Size(*(FACTOR * side for side in lr.shape[-2:]))
        made, smooth, plain = (quantised(x) for x in (upscaler(lr, FACTOR), lanczos(lr, size), resize(lr, size)))
        rows[name] = measured(name, made, smooth, plain)
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in rows[name].items()), flush=True)
        shown.append((name, smooth, made))
    if args.sheet:
        sheet(shown).save(args.sheet)
    if args.json:
        write_report(args.json, {"rows": rows})


def sheet(shown: list[tuple[str, Tensor, Tensor]], side: int = FACTOR * SIDE // 2) -> Image.Image:
    """Middles of `side` px at 1:1 (the dark corner's corner), Lanczos above and the model below, seven a row."""
    columns = 7
    rows = -(-len(shown) // columns)
    image = Image.new("RGB", (columns * (side + 6), rows * (2 * side + 24)), "white")
    draw = ImageDraw.Draw(image)
    for number, (name, *pair) in enumerate(shown):
        left, top = number % columns * (side + 6), number // columns * (2 * side + 24)
        draw.text((left + 2, top), name, fill="black")
        for line, picture in enumerate(pair):
            at = 0 if "corner" in name else max(0, (picture.shape[-1] - side) // 2)
            part = picture[0, :, at : at + side, at : at + side]
            image.paste(as_picture(part), (left, top + 14 + line * (side + 2)))
    return image


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
