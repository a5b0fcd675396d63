"""The pictures that the inspector is calibrated and reported on: photographs, drawn patterns, planted lattices.

A picture belongs to the calibration set or to the report set by its name alone (`split_of`), and so for good. RealSR's
pairs are calibration. Of the drawn patterns, two thirds of the kinds are in the report set only.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize

CALIBRATION, REPORT = "calibration", "report"


@dataclass(frozen=True)
class Sample:
    """A clean picture (3, H, W) in [0, 1], and the small picture (3, h, w) that a factor of four would start from."""

    name: str
    kind: str
    image: Tensor
    small: Tensor


def split_of(name: str) -> str:
    """The set of a file: report for half of all names, by the SHA-1 of the name."""
    return REPORT if hashlib.sha1(name.encode()).digest()[0] % 2 else CALIBRATION


def eight_bits(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def quarter(x: Tensor) -> Tensor:
    """(3, H, W), sides multiples of four, reduced by four: 8 bits."""
    size = Size(x.shape[-2] // 4, x.shape[-1] // 4)
    return eight_bits(resize(x[None], size)[0])


def cropped(x: Tensor, side: int = 512) -> Tensor:
    """The middle `side` px, cut to multiples of four."""
    height, width = (min(side, length) // 4 * 4 for length in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[:, top : top + height, left : left + width].contiguous()


def photographs(shared: Path, wanted: str) -> Iterator[Sample]:
    """RealSR's pairs and the middles of `data/photos` and `data/train` of one set."""
    if wanted == CALIBRATION:
        for path in sorted((shared / "data/realsr/hr").glob("*.png")):
            small = read_picture(path.parent.parent / "lr" / path.name).rgb[0]
            yield Sample(path.name, "realsr", read_picture(path).rgb[0], small)
    for kind in ("train", "photos"):
        for path in sorted((shared / "data" / kind).glob("*.jpg")):
            if split_of(path.name) != wanted:
                continue
            image = cropped(read_picture(path).rgb[0])
            if min(image.shape[-2:]) >= 256:
                yield Sample(path.name, kind, image, quarter(image))


# Drawn patterns: things that repeat. Each takes coordinates (H, W) in px, a pitch and a generator; gives about [-1, 1].


def _facade(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    tall = pitch * (1 + torch.rand(1, generator=g).item())
    return torch.where((y % tall < 0.6 * tall) & (x % pitch < 0.55 * pitch), 1.0, -0.6)


def _brick(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    row = torch.floor(y / pitch)
    long = 2 * pitch
    joint = (y % pitch < 0.15 * pitch) | ((x + (row % 2) * pitch) % long < 0.15 * pitch)
    number = (row * 37 + torch.floor((x + (row % 2) * pitch) / long) * 11) % 17
    return torch.where(joint, 1.0, -0.3 + 0.4 * torch.sin(number * 5.1))


def _fabric(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    over = torch.sign(torch.sin(math.pi * x / pitch) * torch.sin(math.pi * y / pitch))
    return torch.where(over > 0, torch.cos(2 * math.pi * x / pitch), torch.cos(2 * math.pi * y / pitch))


def _halftone(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    angle = math.pi / 180 * (0, 15, 45, 75)[int(torch.randint(4, (1,), generator=g))]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    tone = 0.6 * torch.sin(x / 90) * torch.sin(y / 70)
    return torch.tanh(8 * (torch.cos(2 * math.pi * u / pitch) * torch.cos(2 * math.pi * v / pitch) - tone))


def _screen(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return torch.where((x % pitch < 0.2 * pitch) | (y % pitch < 0.2 * pitch), 1.0, -0.5)


def _louvres(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return 2 * (y % pitch) / pitch - 1


def _twill(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return torch.cos(2 * math.pi * (x + y) / pitch) * (0.7 + 0.3 * torch.cos(2 * math.pi * (x - y) / pitch / 3))


def _tiles(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    joint = (x % pitch < 1.5) | (y % pitch < 1.5)
    number = (torch.floor(y / pitch) * 31 + torch.floor(x / pitch) * 17) % 13
    return torch.where(joint, -1.0, 0.5 + 0.2 * torch.sin(number * 3.7))


def _corrugated(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return torch.sin(2 * math.pi * x / pitch) * (0.6 + 0.4 * torch.sin(y / 120))


def _pencils(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    number = torch.floor(x / pitch)
    return 0.6 * torch.sin(number * 2.4) + 0.4 * torch.sqrt((1 - (2 * (x % pitch) / pitch - 1) ** 2).clamp_min(0))


def _net(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    across, down = (x + y) % pitch, (x - y) % pitch
    return torch.where((across < 0.12 * pitch) | (down < 0.12 * pitch), 1.0, -0.2)


def _herringbone(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    slope = torch.where(torch.floor(x / pitch) % 2 == 0, 1.0, -1.0)
    return torch.where((y + slope * x) % pitch < 0.2 * pitch, 1.0, -0.3)


def _honeycomb(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    turn = 2 * math.pi / pitch
    oblique = (math.sqrt(3) * y - x) / 2, (math.sqrt(3) * y + x) / 2
    return (torch.cos(turn * x) + torch.cos(turn * oblique[0]) + torch.cos(turn * oblique[1])) / 2


def _shingles(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    row = torch.floor(2 * y / pitch)
    across = (x + (row % 2) * pitch / 2) % pitch / pitch - 0.5
    down = (2 * y / pitch) % 1
    return torch.where(down < 4 * across**2, -0.6, 0.2 + 0.5 * down)


def _chequers(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return torch.where((torch.floor(2 * x / pitch) + torch.floor(2 * y / pitch)) % 2 == 0, 1.0, -1.0)


def _plaid(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return 0.5 * (torch.sin(2 * math.pi * x / pitch) > 0.3) + 0.5 * (torch.sin(2 * math.pi * y / (1.5 * pitch)) > 0.5)


def _corduroy(y: Tensor, x: Tensor, pitch: float, g: torch.Generator) -> Tensor:
    return torch.sqrt((1 - (2 * (x % pitch) / pitch - 1) ** 2).clamp_min(0)) + 0.2 * torch.sin(2 * math.pi * y / 3)


PATTERNS: dict[str, Callable[[Tensor, Tensor, float, torch.Generator], Tensor]] = {
    "facade": _facade,
    "brick": _brick,
    "fabric": _fabric,
    "halftone": _halftone,
    "screen": _screen,
    "louvres": _louvres,
    "twill": _twill,
    "tiles": _tiles,
    "corrugated": _corrugated,
    "pencils": _pencils,
    "net": _net,
    "herringbone": _herringbone,
    "honeycomb": _honeycomb,
    "shingles": _shingles,
    "chequers": _chequers,
    "plaid": _plaid,
    "corduroy": _corduroy,
}
SEEN = ("facade", "fabric", "halftone", "louvres", "tiles", "ordered dither")
"""Kinds that are in the calibration set; all kinds are in the report set, drawn with other seeds."""


def pattern(kind: str, seed: int, side: int = 512) -> Tensor:
    """A drawn picture: the pattern at a random pitch, turn, perspective, contrast and share of a smooth scene."""
    g = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=g).item()

    scene = F.interpolate(torch.rand(1, 3, 6, 6, generator=g), size=(side, side), mode="bicubic")[0] * 0.4 + 0.3
    pitch = math.exp(draw(math.log(5), math.log(64)))
    if draw(0, 1) < 0.5:
        pitch = float((4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)[int(draw(0, 13))])
    turned, leaning = (draw(0, 1) < 0.3), (draw(0, 1) < 0.25)
    angle = draw(-0.5, 0.5) if turned else 0.0
    y, x = torch.meshgrid(torch.arange(side) + draw(0, 64), torch.arange(side) + draw(0, 64), indexing="ij")
    if leaning:
        x = x * (1 + draw(0.1, 0.5) * y / side)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    contrast = math.exp(draw(math.log(8), math.log(90))) / 255
    drawn = PATTERNS[kind](v, u, pitch, g)
    if draw(0, 1) < 0.4:  # on a part of the picture
        edge = torch.sigmoid((draw(0.3, 0.6) * side - (x - x.min()) * draw(0.5, 1)) / 2)
        drawn = drawn * edge
    tint = 0.7 + 0.3 * torch.rand(3, 1, 1, generator=g)
    out = scene + contrast * tint * drawn + draw(0.001, 0.012) * torch.randn(3, side, side, generator=g)
    softness = draw(0, 1.2)
    if softness > 0.3:
        out = _blurred(out, softness)
    return eight_bits(out)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    t = torch.arange(-4, 5).float()
    k = torch.exp(-(t**2) / (2 * sigma**2))
    k = (k / k.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x[None], (4,) * 4, mode="reflect"), k, groups=3)
    return F.conv2d(x, k.mT, groups=3)[0]


_BAYER = torch.tensor([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 + 1 / 32


def ordered_dither(x: Tensor, levels: int) -> Tensor:
    """The picture in `levels` steps a channel by a 4x4 Bayer matrix."""
    threshold = _BAYER.repeat(x.shape[-2] // 4 + 1, x.shape[-1] // 4 + 1)[: x.shape[-2], : x.shape[-1]]
    return ((x * (levels - 1) + threshold).floor().clamp(0, levels - 1) / (levels - 1)).float()


def diffused_dither(x: Tensor, levels: int) -> Tensor:
    """The picture in `levels` steps of grey by Floyd and Steinberg's error diffusion (Pillow's), as three channels."""
    grey = Image.fromarray((x.mean(0) * 255).byte().numpy())
    palette = Image.new("P", (1, 1))
    steps = [round(255 * n / (levels - 1)) for n in range(levels)]
    palette.putpalette([v for s in steps for v in (s, s, s)] + [0] * (768 - 3 * levels))
    out = grey.convert("RGB").quantize(levels, palette=palette, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB")
    return torch.from_numpy(np.asarray(out).copy()).movedim(-1, 0).float() / 255


def patterns(wanted: str, count: int, photos: list[Sample]) -> Iterator[Sample]:
    """`count` of each kind of drawn pattern, and of dithered photographs, of one set."""
    start = 300_000 if wanted == CALIBRATION else 6_000_000
    for number, kind in enumerate([*PATTERNS, "ordered dither", "diffused dither"]):
        if wanted == CALIBRATION and kind not in SEEN:
            continue
        for n in range(count):
            seed = start + 1000 * number + n
            if kind in PATTERNS:
                image = pattern(kind, seed)
            else:
                levels = (2, 3, 4, 6, 8, 16)[n % 6]
                make = ordered_dither if kind == "ordered dither" else diffused_dither
                image = make(photos[n * 7 % len(photos)].image, levels)
            yield Sample(f"{kind} {seed}", kind, image, quarter(image))


# Planted lattices.


def lattice(shape: tuple[int, int] | torch.Size, period: float, form: str) -> Tensor:
    """(H, W), largest value about 1: `woven`, `cells` (two cosines), `lines` (1 px, both ways) or `crosses`."""
    down, across = (torch.arange(side, dtype=torch.float64) for side in shape[-2:])
    if form == "woven":
        return (torch.sin(2 * math.pi * down / period)[:, None] * torch.sin(2 * math.pi * across / period)).float()
    if form == "cells":
        sums = torch.cos(2 * math.pi * down / period)[:, None] + torch.cos(2 * math.pi * across / period)
        return (sums / 2).float()
    on_down, on_across = (((side + 0.5) % period < 1).float() for side in (down, across))
    if form == "lines":
        return torch.maximum(on_down[:, None], on_across)
    near_down, near_across = (((side + period / 4) % period < period / 2).float() for side in (down, across))
    return torch.maximum(on_down[:, None] * near_across, near_down[:, None] * on_across)


FORMS = ("woven", "cells", "lines", "crosses")


def planted(x: Tensor, period: float, amplitude: float, form: str = "woven") -> Tensor:
    """(3, H, W) with a lattice of `amplitude` in 1/255, rounded to 8 bits."""
    return eight_bits(x + amplitude / 255 * lattice(x.shape, period, form))


def jpeg(x: Tensor, quality: int) -> Tensor:
    memory = io.BytesIO()
    Image.fromarray((x * 255).round().byte().movedim(0, -1).numpy()).save(memory, "jpeg", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(memory)).astype(np.float32) / 255).movedim(-1, 0)


def resized(x: Tensor, factor: float) -> Tensor:
    return eight_bits(resize(x[None], Size(*(round(side * factor) for side in x.shape[-2:])))[0])


def smooth_scene(seed: int, side: int = 512) -> Tensor:
    """Smooth shapes and noise that grows from 0.3 to 8/255 across: (3, side, side)."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 9, 9, generator=g), size=(side, side), mode="bicubic")[0] * 0.5 + 0.25
    return eight_bits(smooth + torch.randn(3, side, side, generator=g) * torch.linspace(0.001, 0.03, side))
