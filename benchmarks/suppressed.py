"""What the suppressor does to one picture, as crops: before, after and the difference, of a detail and of a flat area.

python benchmarks/suppressed.py PICTURE OUT.png     (contrast times 16 in the flat crops and in the differences)
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from op4ksr_core.diagnostics.sweep import boosted, choose_frames
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.lattice.suppress import dithered, suppress
from op4ksr_core.picture.charts import INK, font
from op4ksr_core.picture.convert import as_picture
from op4ksr_core.picture.read import read_picture

SIDE, GAP = 256, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    before = read_picture(arguments.picture).rgb[0]
    found = inspect(before)
    after = (dithered(suppress(before, found.lattice)) * 255).round() / 255
    frames = choose_frames(before)
    change = (0.5 + 16 * (after - before)).clamp(0, 1)
    sheet = Image.new("RGB", (3 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + 60), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, whole) in enumerate((("before", before), ("after", after), ("difference x16", change))):
        x = GAP + column * (SIDE + GAP)
        draw.text((x, 6), title, fill=INK, font=font(15))
        for row, ((top, left), side) in enumerate(((frames.detail, frames.side), (frames.flat, frames.flat_side))):
            crop = whole[:, top : top + side, left : left + side]
            crop = boosted(crop) if row and column < 2 else crop
            picture = as_picture(crop).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(picture, (x, 30 + row * (SIDE + GAP)))
    again = inspect(after)
    mean = float(torch.abs(after - before).mean()) * 255
    words = f"period {found.period:.4g} px, score {found.score:.2f} -> {again.score:.2f}, mean change {mean:.2f}/255"
    draw.text((GAP, sheet.height - 24), words, fill=INK, font=font(14))
    sheet.save(arguments.out)
    print(f"{arguments.picture}: {words}")


if __name__ == "__main__":
    main()
