"""Training pairs from folders of pictures: crops at native resolution, degraded, each seeded by its own number."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import ImageError, SettingError
from ..geometry import Part, Size
from ..picture.header import read_header
from ..picture.read import read_picture
from ..weights.prompt_files import load_tokens
from .degradation.apply import apply, degrade
from .degradation.draw import draw
from .degradation.presets import DEGRADATIONS
from .settings import MULTIPLE

log = logging.getLogger("op4ksr")

_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"})
"""Pillow's modes of pictures without colour."""


_NO_FILES = "pipes, sockets, devices or folders"


_REPORTED = 10_000
"""Headers between two calls of a report."""


def usable(paths: Sequence[Path], crop: int, report: Callable[[int, int], None] | None = None) -> list[Path]:
    """The pictures that open and have `crop` px on both sides; what is left out is logged, pipes and devices unopened.

    `report` is called with (headers looked at, of how many) as a long list goes on. Grey pictures are used, as three
    equal channels, and logged. Raises SettingError where nothing is left.
    """
    kept: list[Path] = []
    small: list[Path] = []
    broken: list[Path] = []
    grey: list[Path] = []
    no_files: list[Path] = []
    for number, path in enumerate(paths):
        if report is not None and number and number % _REPORTED == 0:
            report(number, len(paths))
        if path.exists() and not path.is_file():
            no_files.append(path)
            continue
        try:
            with Image.open(path) as image:
                (kept if min(image.size) >= crop else small).append(path)
                if image.mode in _GREY and min(image.size) >= crop:
                    grey.append(path)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            broken.append(path)
    for name, some in ((f"smaller than the crop of {crop} px", small), ("unreadable", broken), (_NO_FILES, no_files)):
        if some:
            log.warning("%d of %d pictures are left out, %s: %s", len(some), len(paths), name, few(some))
    if grey:
        log.warning(
            "%d of %d pictures are grey, and teach no colour: %s. Leave them out, or go on with three equal channels.",
            len(grey),
            len(paths),
            few(grey),
        )
    if not kept:
        raise SettingError(
            f"None of the {len(paths)} pictures can be used: {len(small)} are smaller than the crop of {crop} px, "
            f"{len(broken)} are unreadable, {len(no_files)} are {_NO_FILES}: {few([*small, *broken, *no_files])}. "
            "Give larger pictures, or a smaller --crop."
        )
    return kept


def caption_of(picture: Path) -> Path:
    """The file with a picture's tokens, beside it."""
    return picture.with_name(f"{picture.stem}.prompt.safetensors")


def check_captions(paths: Sequence[Path]) -> None:
    """Raises SettingError where a picture has no tokens beside it."""
    without = [path for path in paths if not caption_of(path).is_file()]
    if without:
        raise SettingError(
            f"{len(without)} of {len(paths)} pictures have no NAME.prompt.safetensors beside them: {few(without)}. "
            "`op4ksr embed-prompt MODEL --captions FOLDER` makes them from NAME.txt; or leave --captions out."
        )


def few(paths: Sequence[Path]) -> str:
    """The first three, for a message."""
    return ", ".join(map(str, paths[:3])) + (" ..." if len(paths) > 3 else "")


@dataclass(frozen=True)
class Place:
    """Where a crop lies in a picture, and how it is turned."""

    part: Part
    turns: int
    mirrored: bool

    def read(self, path: Path, scale: int = 1) -> Tensor:
        """(3, H, W) in [0, 1] of a file; with a scale the same place in a picture that is as much smaller. Raises
        ImageError."""
        part = Part(*(side // scale for side in (self.part.left, self.part.top, self.part.width, self.part.height)))
        x = torch.rot90(read_picture(path, part=part).rgb[0], self.turns, (1, 2))
        return (x.flip(2) if self.mirrored else x).contiguous()


class PairDataset(Dataset):
    """Sample n of a training: {"hr": (3, crop, crop), "lr": (3, crop/scale, crop/scale), "seed": int}.

    Which picture, crop, flip, degradation and noise: all follow from (seed, n) alone, so that samples are equal over
    any number of workers and processes. Every picture comes once before any comes again. A picture that turns out to
    be broken is logged and replaced by the next one. With `least_crop`, sample n has its own size: the longest side is
    drawn from least_crop, twice that, ... up to crop, and a picture with a shorter side gives a rectangle. With
    `small`, one for each path, these are the LR pictures, and nothing is degraded.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        crop: int,
        scale: int,
        degradation: str,
        seed: int,
        length: int,
        least_crop: int = 0,
        captions: bool = False,
        small: Sequence[Path] = (),
    ):
        if degradation not in DEGRADATIONS:
            raise SettingError(f"There is no degradation {degradation!r}; there are {', '.join(DEGRADATIONS)}.")
        self.paths, self.crop, self.seed, self.length = list(paths), crop, seed, length
        self.least = least_crop or crop
        self.scale, self.small = scale, list(small)
        self.captions = captions
        if captions:
            check_captions(self.paths)
        self.sides = [crop] if not least_crop else _ladder(least_crop, crop)
        self.degradation = DEGRADATIONS[degradation].at_scale(scale)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor | int]:
        hr, low = self._crops(number)
        if low is None:
            low = degrade(hr, self._dice(number), self.degradation)
        sample: dict[str, Tensor | int] = {"hr": hr, "lr": low, "seed": self._seed_of(number)}
        if self.captions:
            sample["prompt"] = load_tokens(caption_of(self._path(number)))[0]
        return sample

    def crop_of(self, number: int) -> tuple[Tensor, torch.Generator]:
        """The HR crop of a sample, and the dice for its degradation."""
        return self._crops(number)[0], self._dice(number)

    def _dice(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed_of(number))

    def _seed_of(self, number: int) -> int:
        return self.seed * 1_000_003 + number

    def _path(self, number: int) -> Path:
        """The picture that a sample is cut from, where that can be read."""
        epoch, place = divmod(number, len(self.paths))
        return self.paths[_order(self.seed, epoch, len(self.paths))[place]]

    def _crops(self, number: int) -> tuple[Tensor, Tensor | None]:
        """The HR crop of a sample, and the LR one where there are pairs."""
        epoch, place = divmod(number, len(self.paths))
        order = _order(self.seed, epoch, len(self.paths))
        for shift in range(len(order)):
            chosen = order[(place + shift) % len(order)]
            path = self.paths[chosen]
            try:
                size = read_header(path).size
                if min(size.height, size.width) >= self.least:
                    where = self._place(size, random.Random(self._seed_of(number)))
                    return where.read(path), where.read(self.small[chosen], self.scale) if self.small else None
                log.warning("%s is smaller than the crop of %d px; the next picture takes its place.", path, self.least)
            except ImageError as error:
                log.warning("%s; the next picture takes its place.", error)
        raise ImageError(f"None of the {len(order)} pictures can be read any more: {few(self.paths)}. Put them back.")

    def _sides(self, size: Size, rng: random.Random) -> Size:
        """Of a crop."""
        if len(self.sides) == 1:
            return Size(self.crop, self.crop)
        most = rng.choice(self.sides)
        return Size(*(min(most, side // MULTIPLE * MULTIPLE or side) for side in (size.height, size.width)))

    def _place(self, size: Size, rng: random.Random) -> Place:
        """In pairs it begins at whole px of the small picture."""
        cut, step = self._sides(size, rng), self.scale if self.small else 1
        top = step * rng.randint(0, (size.height - cut.height) // step)
        left = step * rng.randint(0, (size.width - cut.width) // step)
        return Place(Part(left, top, cut.width, cut.height), rng.randrange(4), rng.random() < 0.5)


def _ladder(least: int, most: int) -> list[int]:
    sides = [least]
    while 2 * sides[-1] < most:
        sides.append(2 * sides[-1])
    return sides if least == most else [*sides, most]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    """The order of the pictures in an epoch; shuffled once, not for every sample."""
    order = list(range(count))
    random.Random(seed * 7919 + epoch).shuffle(order)
    return order


def pair_sheet(dataset: PairDataset, count: int = 8, panel: int = 256) -> Image.Image:
    """LR (enlarged by repeating px) above HR for the first samples: what a training will see."""
    from ..picture.convert import as_picture

    count = min(count, len(dataset))
    sheet = Image.new("RGB", (count * (panel + 8) + 8, 2 * (panel + 8) + 8), "white")
    for n in range(count):
        pair = dataset[n]
        for row, name in enumerate(("lr", "hr")):
            picture = as_picture(pair[name])  # type: ignore[arg-type]
            kind = Image.Resampling.NEAREST if row == 0 else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((panel, panel), kind), (8 + n * (panel + 8), 8 + row * (panel + 8)))
    return sheet


def step_sheet(dataset: PairDataset, count: int = 4, panel: int = 192) -> Image.Image:
    """A row per sample: its HR crop and the picture after every step of its degradation, each with what was done."""
    from PIL import ImageDraw

    from ..geometry import Size
    from ..picture.charts import INK, font
    from ..picture.convert import as_picture

    rows = []
    for n in range(min(count, len(dataset))):
        hr, dice = dataset.crop_of(n)
        x, row = hr[None], [("HR", hr)]
        for step in draw(Size(*hr.shape[-2:]), dice, dataset.degradation):
            x = apply(step, x, dice)
            row.append((str(step), x[0]))
        rows.append(row)
    cell = panel + 8
    sheet = Image.new("RGB", (max(map(len, rows)) * cell + 8, len(rows) * (cell + 20) + 8), "white")
    for i, row in enumerate(rows):
        for j, (words, picture) in enumerate(row):
            left, top = 8 + j * cell, 8 + i * (cell + 20)
            shown = as_picture(picture).resize((panel, panel), Image.Resampling.NEAREST)
            ImageDraw.Draw(sheet).text((left, top), words, fill=INK, font=font(13))
            sheet.paste(shown, (left, top + 20))
    return sheet
