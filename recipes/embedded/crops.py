"""Training crops restored once and kept, since the models behind the detail network are frozen."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .loop import write
from .pictures import Pictures
from .teacher import load_teacher, sharp_target

SIDE, MARGIN = 192, 16
"""px of a crop, and what is restored around it, where a small decoder is misled by its zero padding."""

Restorer = Callable[[Tensor, Tensor], Tensor]
"""(small, truth) -> the picture that the network will be given: the decoder's, or a stand-in before there is one."""


@dataclass(frozen=True)
class Batch:
    """Small (B, 3, s/4, s/4), restored, true and target pictures (B, 3, s, s), in [0, 1]."""

    lr: Tensor
    picture: Tensor
    hr: Tensor
    target: Tensor


Source = Callable[[random.Random, int], Batch]
"""Draws that many crops."""


def live(pictures: Pictures, teacher_file: Path, restorer_of: Callable[[random.Random], Restorer]) -> Source:
    """Crops that are cut, degraded and restored as they are asked for."""
    teacher = load_teacher(teacher_file)

    def batch(rng: random.Random, count: int) -> Batch:
        lr, hr = pictures.pairs(rng, count, SIDE)
        return Batch(lr, restorer_of(rng)(lr, hr), hr, sharp_target(teacher, lr, hr))

    return batch


SHARP = 0.2
"""Share of the crops that are drawn towards the truth, half of them all the way. There the network learns to add
nothing, so that it can stand behind better models too."""


NAMES = ("lr", "picture", "hr", "target")


@dataclass(frozen=True)
class Kept:
    """8-bit crops of a file that `keep_pairs` or `restore_crops` wrote."""

    parts: dict[str, Tensor]

    @classmethod
    def load(cls, path: Path) -> "Kept":
        if not path.exists():
            raise SystemExit(f"{path} is missing: run the {path.stem.removesuffix('-large')} stage first.")
        return cls(torch.load(path, weights_only=True))

    def batch(self, rng: random.Random, count: int, sharp: float) -> dict[str, Tensor]:
        """Random crops, each in one of eight turns and flips; a share `sharp` of them drawn towards the truth."""
        rows = []
        for _ in range(count):
            number, turn, flip = rng.randrange(len(self.parts["lr"])), rng.randrange(4), rng.random() < 0.5
            row = {name: torch.rot90(part[number].float() / 255, turn, (1, 2)) for name, part in self.parts.items()}
            if flip:
                row = {name: x.flip(2) for name, x in row.items()}
            kind = rng.random()
            share = 1.0 if kind < sharp / 2 else rng.random() if kind < sharp else 0.0
            rows.append({name: x if name in ("lr", "hr") else x.lerp(row["hr"], share) for name, x in row.items()})
        return {name: torch.stack([row[name] for row in rows]).contiguous() for name in self.parts}


def kept(path: Path) -> Source:
    """What `restore_crops` wrote, as the detail network takes it."""
    source = Kept.load(path)
    return lambda rng, count: Batch(**source.batch(rng, count, SHARP))


def keep_pairs(path: Path, pictures: Pictures, count: int, side: int) -> None:
    """Degrades and keeps `count` crops; crop n follows from n."""
    rows = []
    for number in range(count):
        lr, hr, _ = pictures.mixed_pairs(random.Random(f"pairs {side} {number}"), 1, side)
        rows.append([_bytes(x[0]) for x in (lr, hr)])
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {count} crops", flush=True)
    parts = zip(("lr", "hr"), zip(*rows, strict=True), strict=True)
    write(path, {name: torch.stack(part) for name, part in parts})


def restore_crops(
    path: Path, pictures: Pictures, teacher_file: Path, restorer: Restorer, count: int, seed: int
) -> None:
    """Degrades, restores and keeps `count` crops; crop n follows from the seed and n."""
    teacher, whole, inner = load_teacher(teacher_file), SIDE + 2 * MARGIN, slice(MARGIN, MARGIN + SIDE)
    small = slice(MARGIN // 4, (MARGIN + SIDE) // 4)
    rows = []
    for number in range(count):
        lr, hr, drawn = pictures.mixed_pairs(random.Random(f"{seed} {number}"), 1, whole)
        # The teacher is no good at graphics: beside a step it is off by 4/255 and more for 120 px.
        picture, target = restorer(lr, hr), hr if drawn else sharp_target(teacher, lr, hr)
        large = [_bytes(x[0, :, inner, inner]) for x in (picture, hr, target)]
        rows.append([_bytes(lr[0, :, small, small]), *large])
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {count} crops", flush=True)
    parts = zip(NAMES, zip(*rows, strict=True), strict=True)
    write(path, {name: torch.stack(part) for name, part in parts})


def bundled() -> Restorer:
    """The model that is bundled now, without its detail network."""
    from dataclasses import replace

    from op4ksr_core import PRESETS, Upscaler

    settings = replace(PRESETS["embedded"], compensation=0.0)
    upscaler = Upscaler.from_embedded(settings, device="cpu", check_memory=False)
    return lambda lr, hr: upscaler(lr, 4)


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).byte()
