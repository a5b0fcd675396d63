"""What each content sets, at 1:1 on the bundled photographs and on a drawing: a sheet to look at, and PSNR.

    PYTHONPATH=. python benchmarks/content.py -o docs/content.jpg [--json docs/results/content.json]

A row is a picture of one kind, made four times smaller first. The columns: by Lanczos, the preset alone, the preset
with the content's set, the original.
"""

import argparse
import io
import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.provenance import write_report
from op4ksr_core.geometry import Scale, Size
from op4ksr_core.paths import DEMO_PHOTO
from op4ksr_core.picture.convert import as_picture, as_tensor
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS
from op4ksr_core.wishes import Wishes, with_wishes

SIDE = 448
"""px of a crop."""

ASTRONAUT, COLOSSEUM = DEMO_PHOTO.with_name("astronaut.png"), DEMO_PHOTO.with_name("colosseum.jpg")


def crop(path: Path, left: int, top: int) -> Image.Image:
    return Image.open(path).convert("RGB").crop((left, top, left + SIDE, top + SIDE))


def drawing() -> Image.Image:
    """Lettering of several sizes, lines and flat colours."""
    sheet = Image.new("RGB", (SIDE, SIDE), (250, 246, 235))
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((230, 40, 420, 230), fill=(240, 170, 60), outline=(20, 20, 30), width=5)
    draw.polygon([(20, 420), (120, 250), (220, 420)], fill=(70, 130, 180), outline=(20, 20, 30), width=4)
    for step in range(8):
        draw.line((250 + 22 * step, 260, 430, 420 - 20 * step), fill=(20, 20, 30), width=3)
    for top, size, text in ((20, 44, "Sunrise"), (80, 30, "over the hills"), (130, 22, "chapter one, page 12")):
        draw.text((16, top), text, fill=(20, 20, 30), font=ImageFont.load_default(size))
    return sheet


def noisy(picture: Image.Image) -> Image.Image:
    """Noise of 8/255, then JPEG of quality 40."""
    x = as_tensor(picture)
    grain = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 8 / 255
    kept = io.BytesIO()
    as_picture((x + grain).clamp(0, 1)).save(kept, "jpeg", quality=40)
    return Image.open(kept).convert("RGB")


def pictures() -> dict[str, tuple[Tensor, Tensor]]:
    """By content: the original (1, 3, SIDE, SIDE), and the small picture."""
    originals = {
        "photo": crop(COLOSSEUM, 300, 120),
        "portrait": crop(ASTRONAUT, 40, 0),
        "drawing": drawing(),
        "noisy": crop(COLOSSEUM, 300, 120),
    }
    made = {}
    for content, original in originals.items():
        x = as_tensor(original)[None]
        small = as_picture(resize(x, Size(SIDE // 4, SIDE // 4)).clamp(0, 1)[0])
        small = noisy(small) if content == "noisy" else small
        made[content] = x, as_tensor(small)[None]
    return made


def psnr(x: Tensor, y: Tensor) -> float:
    return -10 * math.log10(float((x - y).square().mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    upscaler, preset = Upscaler.from_embedded(), PRESETS["embedded"]
    rows, figures = [], {}
    for content, (original, small) in pictures().items():
        plan = upscaler.plan(Scale(4).frame(Size(*small.shape[-2:])), [preset])
        plain = upscaler.run(plan, small)
        settings, _ = with_wishes(preset, Wishes(content), "embedded")
        own = upscaler(small, 4, settings)
        figures[content] = {
            "preset": round(psnr(plain.rgb, original), 2),
            "with content": round(psnr(own, original), 2),
        }
        print(f"{content}: {figures[content]}", flush=True)
        rows.append(torch.cat([plain.before, plain.rgb, own, original], -1))
    as_picture(torch.cat(rows, -2)[0]).save(arguments.output, quality=88)
    if arguments.json:
        write_report(arguments.json, {"rows": figures})


if __name__ == "__main__":
    main()
