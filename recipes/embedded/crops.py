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


SHARP = 0.4
"""Share of the crops that are drawn towards the truth, half of them all the way. There the network learns to add
nothing, so that it can stand behind better models too."""


def kept(path: Path) -> Source:
    """Crops of a file that `restore_crops` wrote, each in one of eight turns and flips."""
    parts = torch.load(path, weights_only=True)
    names = ("lr", "picture", "hr", "target")

    def batch(rng: random.Random, count: int) -> Batch:
        rows = []
        for _ in range(count):
            number, turn, flip = rng.randrange(len(parts["lr"])), rng.randrange(4), rng.random() < 0.5
            row = [torch.rot90(parts[name][number].float() / 255, turn, (1, 2)) for name in names]
            lr, picture, hr, target = [x.flip(2) for x in row] if flip else row
            kind = rng.random()
            share = 1.0 if kind < SHARP / 2 else rng.random() if kind < SHARP else 0.0
            rows.append((lr, picture.lerp(hr, share), hr, target.lerp(hr, share)))
        return Batch(*(torch.stack(part).contiguous() for part in zip(*rows, strict=True)))

    return batch


def restore_crops(
    path: Path, pictures: Pictures, teacher_file: Path, restorer: Restorer, count: int, seed: int
) -> None:
    """Degrades, restores and keeps `count` crops; crop n follows from the seed and n."""
    teacher, whole, inner = load_teacher(teacher_file), SIDE + 2 * MARGIN, slice(MARGIN, MARGIN + SIDE)
    small = slice(MARGIN // 4, (MARGIN + SIDE) // 4)
    rows = []
    for number in range(count):
        lr, hr = pictures.pairs(random.Random(f"{seed} {number}"), 1, whole)
        picture, target = restorer(lr, hr), sharp_target(teacher, lr, hr)
        large = [_bytes(x[0, :, inner, inner]) for x in (picture, hr, target)]
        rows.append([_bytes(lr[0, :, small, small]), *large])
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {count} crops", flush=True)
    parts = zip(("lr", "picture", "hr", "target"), zip(*rows, strict=True), strict=True)
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
