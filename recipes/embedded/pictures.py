"""Training pictures of the bundled model: photographs, scikit-image's CC0 photos and procedural scenes."""

import itertools
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from op4ksr_core.picture.convert import as_tensor
from op4ksr_core.train.degradation.apply import degrade
from op4ksr_core.train.degradation.presets import Degradation, Stage
from recipes.pictures import PHOTOS, photo
from recipes.scenes import render

HELD_OUT = frozenset((Path(__file__).parent / "held_out.txt").read_text().split())
"""Photographs kept for validation, by the stem of their file name; never trained on."""

LEFT_OUT = ("samuel-zeller-337041", "sean-afnan-244576")
"""Photographs whose licence is in doubt."""

CAMERA = Degradation(
    first=Stage(
        blur_sigma=(0.4, 3.0),
        blur_probability=0.95,
        kernel=(15, 21),
        resize=(0.7, 1.0),
        gaussian=(0.0, 4.0),
        poisson=(0.0, 0.3),
        noise_probability=0.4,
        jpeg=(75.0, 98.0),
        jpeg_probability=0.15,
    ),
    second=Stage(
        blur_sigma=(0.2, 0.7),
        blur_probability=0.15,
        resize=(0.9, 1.2),
        gaussian=(0.0, 4.0),
        poisson=(0.0, 0.3),
        noise_probability=0.4,
        jpeg=(70.0, 100.0),
        jpeg_probability=0.4,
    ),
    codec="libjpeg",
)
"""What RealSR's cameras and the web do: a soft lens (0.4 to 3 px at the large size), little noise, light JPEG."""

LIGHT = Degradation(
    first=Stage(
        blur_sigma=(0.8, 2.2),
        blur_probability=1.0,
        kernel=(15, 21),
        resize=(1.0, 1.0),
        gaussian=(0.0, 1.5),
        poisson=(0.0, 0.1),
        noise_probability=0.3,
        jpeg=(90.0, 98.0),
        jpeg_probability=0.1,
    ),
    second=Stage(
        blur_sigma=(0.2, 0.5),
        blur_probability=0.1,
        resize=(1.0, 1.0),
        gaussian=(0.0, 1.0),
        poisson=(0.0, 0.1),
        noise_probability=0.2,
        jpeg=(90.0, 100.0),
        jpeg_probability=0.2,
    ),
    codec="libjpeg",
)
"""A good camera: a lens's blur and hardly anything else. Where noise hides the detail, the best guess is a blur, and a
model that sees nothing else learns to blur."""

LARGEST_ZOOM = 3.0
"""At most how many px of a photograph become one px of the crop: reduced, it gives sharper crops."""

KINDS = {"texture": 0.45, "print": 0.15, "skin": 0.12, "soft": 0.12, "dark": 0.06, "any": 0.10}
"""Shares of the crops, by what is in them (`kind_of`)."""

TRIES = 40
"""Crops that are looked at for one of the wanted kind, before any is taken."""


@dataclass
class Pictures:
    """8-bit RGB pictures (H, W, 3) from which a step draws its crops."""

    photos: list[np.ndarray]
    scenes: list[np.ndarray]
    scene_share: float = 0.1

    @classmethod
    def load(cls, folders: Sequence[Path], held_out: bool = False, scenes: int = 100, workers: int = 0) -> "Pictures":
        """The photographs in `folders` that are (not) held out; the training set also has CC0 photos and scenes, which
        `workers` processes draw."""
        files = [f for folder in folders for f in sorted(folder.glob("*.jpg"))]
        files = [f for f in files if (f.stem in HELD_OUT) == held_out and f.stem not in LEFT_OUT]
        if not files:
            raise SystemExit(f"There are no photographs in {', '.join(map(str, folders))}: name folders with --photos.")
        photos = [np.asarray(Image.open(f).convert("RGB")) for f in files]
        if held_out:
            return cls(photos, [], 0.0)
        own = [to_bytes(photo(name)) for name in PHOTOS if name not in ("retina", "hubble_deep_field")]
        return cls(photos + own, many(lambda n: to_bytes(render(512, n, "cpu")), scenes, workers))

    def crop(self, rng: random.Random, side: int) -> np.ndarray:
        """(side, side, 3): a random crop of a kind drawn from KINDS, in one of eight turns and flips."""
        (wanted,) = rng.choices(list(KINDS), list(KINDS.values()))
        for _ in range(TRIES):
            part = self._part(rng, side)
            if wanted in ("any", kind_of(part)):
                break
        part = np.ascontiguousarray(np.rot90(part[:, :: rng.choice((1, -1))], rng.randrange(4)))
        if part.shape[0] != side:
            part = np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC))
        return part

    def _part(self, rng: random.Random, side: int) -> np.ndarray:
        """A square of 1 to LARGEST_ZOOM times `side`; photographs are as likely as the square root of their size."""
        while True:
            if self.scenes and rng.random() < self.scene_share:
                source = rng.choice(self.scenes)
            else:
                (source,) = rng.choices(self.photos, cum_weights=self._weights)
            largest = min(LARGEST_ZOOM, min(source.shape[:2]) / side)
            if largest >= 1:
                break
        span = int(side * largest ** rng.random())
        top, left = rng.randint(0, source.shape[0] - span), rng.randint(0, source.shape[1] - span)
        return source[top : top + span, left : left + span]

    @cached_property
    def _weights(self) -> list[float]:
        return list(itertools.accumulate(photo.size**0.5 for photo in self.photos))

    def batch(self, rng: random.Random, count: int, side: int) -> Tensor:
        """(count, 3, side, side) in [0, 1]."""
        return torch.stack([_to_floats(self.crop(rng, side)) for _ in range(count)])

    def pairs(self, rng: random.Random, count: int, side: int, how: Degradation = CAMERA) -> tuple[Tensor, Tensor]:
        """Small (count, 3, side/4, side/4) and true (count, 3, side, side) pictures in [0, 1]."""
        hr = self.batch(rng, count, side)
        return degraded(hr, rng, how), hr


def graphic(rng: random.Random, side: int) -> Tensor:
    """(3, side, side): one colour, a ramp, or shapes, lines and letters on one, drawn at twice the size."""
    kind, colours = rng.random(), [tuple(rng.randrange(256) for _ in range(3)) for _ in range(8)]
    if kind < 0.3:
        return torch.tensor(colours[0])[:, None, None].expand(-1, side, side) / 255
    if kind < 0.5:
        ramp = torch.linspace(0, 1, side) * rng.random()
        first, last = (torch.tensor(colour)[:, None, None] / 255 for colour in colours[:2])
        return first.lerp(last, ramp.expand(side, -1) if rng.random() < 0.5 else ramp[:, None].expand(-1, side))
    plain = rng.random() < 0.5
    image = Image.new("RGB", (2 * side, 2 * side), "white" if plain else colours[0])
    draw = ImageDraw.Draw(image)
    for colour in colours:
        ink, (x, y, u, v) = "black" if plain else colour, (rng.randrange(-40, 2 * side) for _ in range(4))
        width, shape = rng.randrange(2, 14), rng.randrange(4)
        if shape == 0:
            draw.line([x, y, u, v], fill=ink, width=width)
        elif shape == 1:
            draw.ellipse([min(x, u), min(y, v), max(x, u) + 4, max(y, v) + 4], outline=ink, width=width)
        elif shape == 2:
            draw.rectangle([min(x, u), min(y, v), max(x, u), max(y, v)], fill=None if plain else ink, outline=ink)
        else:
            letters = "".join(rng.choice(string.ascii_letters + string.digits + " ") for _ in range(12))
            draw.text((x, y), letters, fill=ink, font=ImageFont.load_default(rng.randrange(24, 90)))
    return as_tensor(image.resize((side, side), Image.Resampling.BOX))


def degraded(hr: Tensor, rng: random.Random, how: Degradation = CAMERA) -> Tensor:
    """(B, 3, H, W) -> (B, 3, H/4, W/4), rounded to 8 bits as a file would be."""
    generator = torch.Generator().manual_seed(rng.randrange(2**40))
    small = torch.stack([degrade(picture, generator, how) for picture in hr])
    return (small * 255).round().clamp(0, 255) / 255


def kind_of(part: np.ndarray) -> str:
    """What is in a crop (H, W, 3), one of KINDS but "any": the first that holds of dark (mean brightness below 45),
    skin (a quarter of it has skin's colours), soft (hardly a step between neighbours), print (hard steps between flat
    parts: lettering, buildings) and texture; else "any"."""
    small = part[::2, ::2].astype(np.int16)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    if green.mean() < 45:
        return "dark"
    is_skin = (red > 95) & (red - green > 12) & (green - blue > 4) & (red - blue > 25) & (red - blue < 130)
    if is_skin.mean() > 0.25 and np.abs(np.diff(green, axis=1)).mean() < 9:
        return "skin"
    steps = np.abs(np.diff(green, axis=1))
    if steps.mean() < 2:
        return "soft"
    if (steps < 4).mean() > 0.6 and (steps > 45).mean() > 0.025:
        return "print"
    return "texture" if steps.mean() > 6 else "any"


def to_bytes(x_chw: Tensor) -> np.ndarray:
    return (x_chw.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()


def _to_floats(x_hwc: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(x_hwc)).permute(2, 0, 1).float() / 255


def many(make: Callable[[int], np.ndarray], count: int, workers: int) -> list[np.ndarray]:
    """`make(0)`, `make(1)` and so on, by that many processes, or 0: by this one."""
    global _made_by_workers
    if not workers:
        return [make(n) for n in range(count)]
    _made_by_workers = make  # a forked process has it; it cannot be sent
    with get_context("fork").Pool(workers, torch.set_num_threads, (1,)) as pool:
        return pool.map(_make, range(count), chunksize=8)


_made_by_workers: Callable[[int], np.ndarray]


def _make(number: int) -> np.ndarray:
    return _made_by_workers(number)
