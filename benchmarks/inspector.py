"""How well the periodicity inspector tells planted lattices from real photos, and what the suppressor takes away.

python benchmarks/inspector.py PHOTOS [--roc FILE.png]     (PHOTOS: a folder of clean photos, such as RealSR's HR)
"""

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from op4ksr_core.geometry import Size
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.lattice.spectrum import luma255
from op4ksr_core.lattice.suppress import suppress
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize

PERIODS, AMPLITUDES = (8, 16, 32, 31, 48), (0.5, 1.0, 2.0, 4.0, 8.0)


def eight_bits(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def lattice(shape: torch.Size, period: float, woven: bool = True) -> Tensor:
    """A pattern of amplitude 1: woven (product of sines) or a grid of two cosines."""
    down, across = (2 * math.pi * torch.arange(side) / period for side in shape[-2:])
    if woven:
        return torch.sin(down)[:, None] * torch.sin(across)
    return (torch.cos(down)[:, None] + torch.cos(across)) / 2


def planted(x: Tensor, period: float, amplitude: float, woven: bool = True) -> Tensor:
    return eight_bits(x + amplitude / 255 * lattice(x.shape, period, woven))


def jpeg(x: Tensor, quality: int = 85) -> Tensor:
    memory = io.BytesIO()
    pixels = (x * 255).round().byte().movedim(0, -1).numpy()
    Image.fromarray(pixels).save(memory, "jpeg", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(memory)).astype(np.float32) / 255).movedim(-1, 0)


def in_one_region(clean: Tensor, marked: Tensor) -> Tensor:
    height, width = (side // 2 for side in clean.shape[-2:])
    out = clean.clone()
    out[:, :height, :width] = marked[:, :height, :width]
    return out


def smaller(x: Tensor) -> Tensor:
    size = Size(*(round(side * 0.9) for side in x.shape[-2:]))
    return eight_bits(resize(x[None], size)[0])


def mosaic(photos: list[Tensor], count: int) -> Tensor:
    rows = [torch.cat([photos[(i * count + j) % len(photos)] for j in range(count)], 2) for i in range(count)]
    return torch.cat(rows, 1)


TREATMENTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "as planted": (lambda clean, marked: marked, 1.0),
    "in one quarter": (in_one_region, 1.0),
    "turned by 90 degrees": (lambda clean, marked: marked.rot90(1, (1, 2)), 1.0),
    "JPEG 85": (lambda clean, marked: jpeg(marked), 1.0),
    "resized by 0.9": (lambda clean, marked: smaller(marked), 0.9),
}


def detection(photos: list[Tensor]) -> None:
    print("\n| period | " + " | ".join(f"{a:g}/255" for a in AMPLITUDES) + " |\n|---|" + "---|" * len(AMPLITUDES))
    for period in PERIODS:
        cells = []
        for amplitude in AMPLITUDES:
            found = [inspect(planted(x, period, amplitude, n % 2 == 0)) for n, x in enumerate(photos)]
            right = sum(one.verdict == "lattice" and abs(one.period - period) < 0.6 for one in found)
            scores = sorted(one.score for one in found)
            cells.append(f"{right}/{len(found)} ({scores[len(scores) // 2]:.2f})")
        print(f"| {period} | " + " | ".join(cells) + " |")


def treatments(photos: list[Tensor], amplitude: float) -> None:
    print("\n| treatment | " + " | ".join(f"period {p}" for p in PERIODS) + " | clean: false alarms |")
    print("|---|" + "---|" * (len(PERIODS) + 1))
    for name, (treat, factor) in TREATMENTS.items():
        cells = []
        for period in PERIODS:
            found = [inspect(treat(x, planted(x, period, amplitude, n % 2 == 0))) for n, x in enumerate(photos)]
            right = sum(o.verdict == "lattice" and abs(o.period - factor * period) < 0.6 for o in found)
            cells.append(f"{right}/{len(found)}")
        clean = [inspect(treat(x, x)) for x in photos]
        alarms = sum(one.score >= 0.1 for one in clean)
        print(
            f"| {name} | " + " | ".join(cells) + f" | {alarms}/{len(clean)}, worst {max(o.score for o in clean):.2f} |"
        )


def removal(photos: list[Tensor]) -> None:
    print("\n| picture | period | amplitude | energy gone, median (worst) | PSNR gain dB, median (worst) |")
    print("|---|---|---|---|---|")
    sets = {"512 px photos": photos[:12], "2048 px mosaic": [mosaic(photos, 4)], "4096 px mosaic": [mosaic(photos, 8)]}
    for name, pictures in sets.items():
        for period in (8, 16, 32):
            for amplitude in (1.0, 4.0, 8.0):
                gone, gain = [], []
                for x in pictures:
                    marked = planted(x, period, amplitude)
                    found = inspect(marked)
                    if found.lattice is None:
                        continue
                    cleaned = suppress(marked, found.lattice)
                    wave = lattice(x.shape, period) - lattice(x.shape, period).mean()
                    before, after = (float((luma255(y - x) * wave).sum()) for y in (marked, cleaned))
                    gone.append(1 - (after / before) ** 2)
                    gain.append(10 * math.log10(float((marked - x).square().mean() / (cleaned - x).square().mean())))
                if gone:
                    middle = len(gone) // 2
                    gone, gain = sorted(gone), sorted(gain)
                    row = f"{gone[middle]:.1%} ({gone[0]:.1%}) | {gain[middle]:.1f} ({gain[0]:.1f})"
                    print(f"| {name} | {period} | {amplitude:g}/255 | {row} |")


def roc(photos: list[Tensor], path: Path) -> None:
    """True against false alarms as the score's threshold moves, for four amplitudes at period 32 and 16."""
    clean = torch.tensor([inspect(x).score for x in photos])
    side = 420
    sheet = Image.new("RGB", (side + 80, side + 60), "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([50, 10, 50 + side, 10 + side], outline="#999")
    for n, amplitude in enumerate((0.25, 0.5, 1.0, 2.0)):
        marked = torch.tensor([inspect(planted(x, p, amplitude)).score for x in photos for p in (16, 32)])
        levels = torch.linspace(-0.001, 1, 400)
        points = [((clean > t).float().mean(), (marked > t).float().mean()) for t in levels]
        colour = ("#bbb", "#c96", "#2a6fb0", "#b02a2a")[n]
        line = [(50 + float(f) * side, 10 + side - float(h) * side) for f, h in points]
        draw.line([(50 + side, 10), *line], fill=colour, width=3)
        area = sum((marked[:, None] > clean).float().mean(1)) / len(marked)
        area += 0.5 * float((marked[:, None] == clean).float().mean())
        draw.text((side - 150, side - 100 + 20 * n), f"{amplitude:g}/255: area {area:.3f}", fill=colour)
        print(f"ROC {amplitude:g}/255: area {area:.3f}")
    draw.text((side // 2 - 20, side + 30), "false alarms", fill="black")
    draw.text((4, 20), "found", fill="black")
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--every", type=int, default=2, help="take every n-th photo for the planted ones (default 2)")
    parser.add_argument("--roc", type=Path)
    arguments = parser.parse_args()
    photos = [read_picture(path).rgb[0] for path in sorted(arguments.photos.iterdir())]
    found = [inspect(x) for x in photos]
    print(f"{len(photos)} clean photos: worst score {max(o.score for o in found):.3f}, verdicts", end=" ")
    print({v: sum(o.verdict == v for o in found) for v in ("clean", "texture", "lattice")})
    some = photos[:: arguments.every]
    detection(some)
    treatments(some, 2.0)
    removal(photos)
    if arguments.roc:
        roc(some, arguments.roc)


if __name__ == "__main__":
    main()
