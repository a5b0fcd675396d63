"""Training crops by the hundred: kept patches of the pictures, varied, and degraded in groups, on one device."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.picture.resample import resize
from op4ksr_core.train.degradation.apply import apply, blur
from op4ksr_core.train.degradation.draw import draw
from op4ksr_core.train.degradation.presets import Degradation

from .pictures import CAMERA, LIGHT, Pictures, graphic, many, to_bytes

PATCH, LARGE_PATCH = 320, 1024
"""px of the patches that crops are cut from, and of the fewer ones that large crops are cut from."""

COUNTS = {"cpu": (4000, 80, 500), "cuda": (12_000, 400, 2000)}
"""Patches, large patches and graphics that are kept."""

GROUP = 16
"""At most how many crops of a step are degraded alike."""

LIGHT_SHARE, GRAPHIC_SHARE = 0.7, 0.15
"""Of the groups, and of the crops."""

LENS_SHARE = 0.3
"""Of the detail network's crops: those that one lens has seen twice (`seen_by_one_lens`)."""

LENS = (0.3, 0.8)
"""Sigma of that lens's blur, in px of the picture that it draws."""

SHARP_LIGHT = replace(LIGHT, first=replace(LIGHT.first, blur_probability=0.0))
"""What a good camera does but for its lens."""

BLENDED, PATCHWORK, RECOLOURED = 0.05, 0.2, 0.3
"""Shares of the crops that are blended with another one, patched with another one, and given other colours (compare
arXiv 2004.00448), so that less is learned by heart."""


@dataclass
class CropPool:
    """8-bit patches (N, 3, side, side) on one device."""

    patches: Tensor
    large: Tensor
    graphics: Tensor

    @classmethod
    def load(cls, folders: Sequence[Path], device: torch.device, workers: int = 0) -> "CropPool":
        """Patches of the pictures that are not held out, cut by `workers` processes (0: in this one)."""
        patches, large, graphics = COUNTS[device.type]
        pictures = Pictures.load(folders, workers=workers)
        photos = Pictures(pictures.photos, [], 0.0)

        def on_device(rows: list[np.ndarray]) -> Tensor:
            kept = torch.empty(len(rows), 3, *rows[0].shape[:2], dtype=torch.uint8, device=device)
            for to, row in zip(kept, rows, strict=True):
                to.copy_(torch.from_numpy(np.array(row)).to(device).permute(2, 0, 1))
            return kept

        return cls(
            on_device(many(lambda n: pictures.crop(random.Random(f"patch {n}"), PATCH), patches, workers)),
            on_device(many(lambda n: photos.crop(random.Random(f"large {n}"), LARGE_PATCH), large, workers)),
            on_device(many(lambda n: to_bytes(graphic(random.Random(f"graphic {n}"), PATCH)), graphics, workers)),
        )

    def crops(self, rng: random.Random, count: int, side: int) -> Tensor:
        """(count, 3, side, side) in [0, 1]: varied crops."""
        dice = self._dice(rng)
        x, other = (self._cut(self.large if side > PATCH else self.patches, rng, dice, count, side) for _ in range(2))
        kind = self._random(dice, count)
        share = torch.where(kind < BLENDED, self._random(dice, count, 0.2, 0.5), 0.0)
        x = x.lerp(other, share[:, None, None, None])
        patched = ((kind > BLENDED) & (kind < BLENDED + PATCHWORK))[:, None, None, None]
        x = x.lerp(other, blobs(dice, count, side, rng.randrange(3, 10)) * patched)
        return torch.where((self._random(dice, count) < RECOLOURED)[:, None, None, None], recoloured(x, dice), x)

    def pairs(self, rng: random.Random, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Small (count, 3, side/4, side/4) and true (count, 3, side, side) pictures in [0, 1], most of them lightly
        degraded, and some of them graphics: where, is the third (count,), bool."""
        dice, hr = self._dice(rng), self.crops(rng, count, side)
        drawn = self._random(dice, count) < GRAPHIC_SHARE
        if side <= PATCH:
            graphics = self._cut(self.graphics, rng, dice, count, side)
            hr = torch.where(drawn[:, None, None, None], graphics, hr)
        else:
            drawn = torch.zeros_like(drawn)
        lr = [
            degraded_alike(part, rng, dice, LIGHT if rng.random() < LIGHT_SHARE else CAMERA)
            for part in hr.split(max(1, min(GROUP, count // 4)))
        ]
        return torch.cat(lr), hr, drawn

    def lens_pairs(self, rng: random.Random, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Small (count, 3, side/4, side/4) and true (count, 3, side, side) crops in [0, 1], as one lens sees them."""
        return seen_by_one_lens(self.crops(rng, count, side), rng, self._dice(rng))

    def _cut(self, patches: Tensor, rng: random.Random, dice: torch.Generator, count: int, side: int) -> Tensor:
        """Crops of random patches, all at one place of theirs, each half in one of eight turns and flips."""
        top, left = (rng.randint(0, patches.shape[-1] - side) for _ in range(2))
        rows = torch.randint(len(patches), (count,), generator=dice, device=patches.device)
        x = patches[:, :, top : top + side, left : left + side][rows].float() / 255
        return turned(x, turns(rng))

    def _dice(self, rng: random.Random) -> torch.Generator:
        return torch.Generator(self.patches.device).manual_seed(rng.randrange(2**40))

    @staticmethod
    def _random(dice: torch.Generator, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=dice, device=dice.device)


@dataclass
class HeldOut:
    """Pictures of the held-out photographs, as they are: 48 crops under light blur, four large ones, two clean ones."""

    lr: Tensor
    hr: Tensor
    large: list[tuple[Tensor, Tensor]]
    clean: Tensor

    @classmethod
    def load(cls, folders: Sequence[Path], device: torch.device) -> "HeldOut":
        rng, pictures = random.Random(7), Pictures.load(folders, held_out=True)
        lr, hr = (x.to(device) for x in pictures.pairs(rng, 48, 256, LIGHT))
        large = [tuple(x.to(device) for x in pictures.pairs(rng, 1, 1408, LIGHT)) for _ in range(4)]
        return cls(lr, hr, large, pictures.batch(rng, 2, 768).to(device))


Turns = tuple[tuple[int, bool], tuple[int, bool]]
"""Quarter turns, and whether flipped, of the first and of the second half of some crops."""


def turns(rng: random.Random) -> Turns:
    """One of eight turns and flips for each half."""
    first, second = ((rng.randrange(4), rng.random() < 0.5) for _ in range(2))
    return first, second


def turned(x_bchw: Tensor, halves: Turns) -> Tensor:
    """Square pictures, each half of them turned as it says; one alone as the first."""
    parts = x_bchw.split((len(x_bchw) + 1) // 2)
    made = [
        torch.rot90(x.flip(3) if flip else x, turn, (2, 3))
        for x, (turn, flip) in zip(parts, halves[: len(parts)], strict=True)
    ]
    return torch.cat(made)


def blobs(dice: torch.Generator, count: int, side: int, cells: int) -> Tensor:
    """(count, 1, side, side): 0 and 1 in random shapes about side/cells px wide, with edges of about a px."""
    noise = torch.randn(count, 1, cells, cells, generator=dice, device=dice.device)
    field = F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)
    return (field * (2 * side / cells)).sigmoid()


def recoloured(x_bchw: Tensor, dice: torch.Generator) -> Tensor:
    """Pictures with their channels in another order, perhaps as negatives, each with a gamma and a range of its own."""
    count = len(x_bchw)

    def random_of(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=dice, device=dice.device)

    order = random_of(0, 1, 3).argsort(1).expand_as(x_bchw)
    x = x_bchw.gather(1, order)
    x = torch.where(random_of(0, 1) < 0.25, 1 - x, x).clamp(1e-4, 1)
    low, high = random_of(0, 0.1), random_of(0.8, 1)
    return low + (high - low) * x ** (2 ** (random_of(-0.7, 0.7) + random_of(-0.2, 0.2, 3)))


def enlarged(lr: Tensor) -> Tensor:
    """The small pictures, four times as large."""
    return resize(lr, Size(4 * lr.shape[-2], 4 * lr.shape[-1])).clamp(0, 1)


def seen_by_one_lens(scene: Tensor, rng: random.Random, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) -> small (B, 3, H/4, W/4) and large (B, 3, H, W): the scene as one lens draws it from afar and four
    times as near. Both are blurred by as much of their own px, so a soft small picture has a soft truth. Cameras make
    pairs such as RealSR's in this way; a blur of the small picture alone asks for more detail than they have."""
    sigma = rng.uniform(*LENS)
    small = gaussian_blur(scene, 4 * sigma * rng.uniform(0.9, 1.1))
    return degraded_alike(small, rng, dice, SHARP_LIGHT), gaussian_blur(scene, sigma)


def gaussian_blur(x_bchw: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1, device=x_bchw.device) ** 2) / (2 * sigma**2))
    return blur(x_bchw, line[:, None] * line / line.sum() ** 2)


def degraded_alike(hr: Tensor, rng: random.Random, dice: torch.Generator, how: Degradation) -> Tensor:
    """(B, 3, H, W) -> (B, 3, H/4, W/4), all by the same steps, rounded to 8 bits as a file would be."""
    steps = draw(Size(*hr.shape[-2:]), torch.Generator().manual_seed(rng.randrange(2**40)), how)
    for step in steps:
        hr = apply(step, hr, dice)
    return (hr * 255).round() / 255
