"""Training crops taught and restored once and kept, since the models before the detail network are frozen."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .crop_pool import LENS_SHARE, CropPool, turned, turns
from .loop import read, write
from .teacher import Graph, sharp_target

SIDE, MARGIN = 192, 16
"""px of a crop, and what is restored around it, where a small decoder is misled by its zero padding."""

SHARP = 0.2
"""Share of the crops that are drawn towards the truth, half of them all the way. There the network learns to add
nothing, so that it can stand behind better models too."""

COUNTS = {"cpu": 3000, "cuda": 16_000}
"""Crops that are taught and kept."""

TOGETHER = {"cpu": 4, "cuda": 48}
"""Crops that are restored at once."""

Restorer = Callable[[Tensor, Tensor], Tensor]
"""(small, truth) -> the picture that the network will be given."""


@dataclass(frozen=True)
class Batch:
    """Small (B, 3, s/4, s/4), restored, true and the teacher's pictures (B, 3, s, s), in [0, 1]."""

    lr: Tensor
    picture: Tensor
    hr: Tensor
    target: Tensor


Source = Callable[[random.Random, int], Batch]
"""Draws that many crops."""

NAMES = ("lr", "picture", "hr", "target")


@dataclass(frozen=True)
class Kept:
    """8-bit crops on one device."""

    parts: dict[str, Tensor]

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "Kept":
        if not path.exists():
            raise SystemExit(f"{path} is missing: run the stages pairs and crops first.")
        return cls({name: part.to(device) for name, part in read(path).items()})

    def save(self, path: Path) -> None:
        write(path, self.parts)

    def __call__(self, rng: random.Random, count: int) -> Batch:
        """Random crops, each half of them in one of eight turns and flips; a share SHARP of them drawn towards the
        truth."""
        device = self.parts["lr"].device
        dice = torch.Generator(device).manual_seed(rng.randrange(2**40))
        halves = turns(rng)
        rows = torch.randint(len(self.parts["lr"]), (count,), generator=dice, device=device)
        kind, share = (torch.rand(count, generator=dice, device=device) for _ in range(2))
        share = torch.where(kind < SHARP / 2, 1.0, torch.where(kind < SHARP, share, 0.0))[:, None, None, None]
        parts = {name: turned(part[rows].float() / 255, halves) for name, part in self.parts.items()}
        for name in ("picture", "target"):
            parts[name] = parts[name].lerp(parts["hr"], share)
        return Batch(**parts)


def taught_pairs(pool: CropPool, teacher_file: Path, count: int, seed: int) -> Kept:
    """`count` degraded crops, MARGIN px larger on every side, with their truths and targets; no picture yet. What one
    lens has seen is not the teacher's: there the truth is the target."""
    device, together = pool.patches.device, TOGETHER[pool.patches.device.type]
    teacher, whole = Graph(teacher_file).to(device), SIDE + 2 * MARGIN
    sides = {"lr": whole // 4, "hr": whole, "target": whole}
    parts = {name: torch.empty(count, 3, side, side, dtype=torch.uint8, device=device) for name, side in sides.items()}
    for first in range(0, count, together):
        rows = slice(first, min(count, first + together))
        rng = random.Random(f"{seed} {first}")
        if rng.random() < LENS_SHARE:
            lr, hr = pool.lens_pairs(rng, together, whole)
            target = hr
        else:
            lr, hr, drawn = pool.pairs(rng, together, whole)
            target = target_of(teacher, lr, hr, drawn)
        for name, x in zip(parts, (lr, hr, target), strict=True):
            parts[name][rows] = to_bytes(x[: rows.stop - first])
        if first % 480 == 0:
            print(f"{first} of {count} crops taught", flush=True)
    return Kept(parts)


def restored_crops(pairs: Kept, restorer: Restorer) -> Kept:
    """The pairs with the picture that the network will be given, all without their margin."""
    lr, hr = pairs.parts["lr"], pairs.parts["hr"]
    together = TOGETHER[lr.device.type]
    pictures = [
        to_bytes(restorer(small.float() / 255, truth.float() / 255))
        for small, truth in zip(lr.split(together), hr.split(together), strict=True)
    ]
    small = slice(MARGIN // 4, (MARGIN + SIDE) // 4)
    inner = slice(MARGIN, MARGIN + SIDE)
    parts = {"picture": torch.cat(pictures), "hr": hr, "target": pairs.parts["target"]}
    kept = {name: part[..., inner, inner].contiguous() for name, part in parts.items()}
    return Kept(kept | {"lr": lr[..., small, small].contiguous()})


def to_bytes(x: Tensor) -> Tensor:
    """[0, 1] -> 0 to 255."""
    return (x * 255).round().clamp(0, 255).byte()


def target_of(teacher: nn.Module, lr: Tensor, hr: Tensor, drawn: Tensor) -> Tensor:
    """The teacher's picture; of graphics the truth: beside a step the teacher is off by 4/255 and more for 120 px."""
    return torch.where(drawn[:, None, None, None], hr, sharp_target(teacher, lr, hr))
