"""Before/after strip: the same detail enlarged by Lanczos and by the model, under labels."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import write_atomically

_PANEL = 512
_LABEL = 36
_GAP = 8


def detail_corner(image: Image.Image, side: int) -> tuple[int, int]:
    """Left and top of the most detailed `side` px square, among squares half a side apart."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    energy = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    tops = range(0, max(1, image.height - side), side // 2)
    lefts = range(0, max(1, image.width - side), side // 2)
    _, left, top = max((float(energy[t : t + side, x : x + side].mean()), x, t) for t in tops for x in lefts)
    return left, top


def make_before_after(before: Image.Image, after: Image.Image, label: str = "OP4KSR") -> Image.Image:
    """Three panels: the input as a whole, one detail by Lanczos, the same detail of `after`, pixel for pixel."""
    side = min(_PANEL, after.width, after.height)
    left, top = detail_corner(after, side)
    box = (left, top, left + side, top + side)
    lanczos = before.resize(after.size, Image.Resampling.LANCZOS).crop(box)
    whole = _outlined(before, after.size, box)
    panels = [
        (f"input {before.width}x{before.height}", whole),
        (f"Lanczos to {after.width}x{after.height}, detail", lanczos),
        (f"{label}, same detail", after.crop(box)),
    ]
    strip = Image.new("RGB", (3 * _PANEL + 2 * _GAP, _PANEL + _LABEL), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(20)
    for i, (text, panel) in enumerate(panels):
        x = i * (_PANEL + _GAP)
        draw.text((x + 4, 6), text, fill="black", font=font)
        strip.paste(panel, (x + (_PANEL - panel.width) // 2, _LABEL + (_PANEL - panel.height) // 2))
    return strip


def _outlined(before: Image.Image, full: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """The whole input at panel size with the detail's frame drawn in."""
    factor = _PANEL / max(before.size)
    size = (max(1, round(before.width * factor)), max(1, round(before.height * factor)))
    whole = before.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    frame = [round(v * s / f) for v, s, f in zip(box, size * 2, full * 2, strict=True)]
    ImageDraw.Draw(whole).rectangle(frame, outline=(255, 60, 60), width=2)
    return whole


def save_before_after(path: Path, before: Image.Image, after: Image.Image) -> None:
    """Writes the strip as JPEG, whole or not at all. Raises OutputError."""
    strip = make_before_after(before.convert("RGB"), after.convert("RGB"))
    write_atomically(path, lambda file: strip.save(file, "JPEG", quality=92))
