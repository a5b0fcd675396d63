"""The teacher: realesr-general-x4v3 (BSD-3-Clause), read from ncnn's files, which the repository does not hold.

Where to get them: `upscayl-lite-4x.param` and `.bin` below `resources/models` of the repository upscayl/upscayl.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import half_where_fast

_HALF_TAG = 0x01306B47


def load_teacher(param: Path) -> nn.Sequential:
    """A chain of 3x3 convolutions and PReLUs from `param` and the `.bin` beside it; frozen, channels last."""
    raw = np.frombuffer(param.with_suffix(".bin").read_bytes(), np.uint8)
    at, layers = 0, []

    def take(count: int, kind: type) -> Tensor:
        nonlocal at
        size = count * np.dtype(kind).itemsize
        values = raw[at : at + size].view(kind).astype(np.float32)
        at += (size + 3) // 4 * 4
        return torch.from_numpy(values)

    for line in param.read_text().splitlines():
        kind, *words = line.split() or [""]
        values = dict(word.split("=") for word in words if "=" in word and word[0].isdigit())
        if kind == "PReLU":
            layer: nn.Module = nn.PReLU(int(values["0"]))
            layer.weight.data = take(int(values["0"]), np.float32)
        elif kind == "Convolution":
            outputs, weights = int(values["0"]), int(values["6"])
            half = int(take(1, np.uint32).item()) == np.float32(_HALF_TAG)
            layer = nn.Conv2d(weights // outputs // 9, outputs, 3, padding=1)
            layer.weight.data = take(weights, np.float16 if half else np.float32).view(outputs, -1, 3, 3)
            layer.bias.data = take(outputs, np.float32)
        else:
            continue
        layers.append(layer)
    if at != len(raw):
        raise SystemExit(f"{param.with_suffix('.bin')} has {len(raw)} bytes, its .param describes {at}.")
    return nn.Sequential(*layers).requires_grad_(False).eval().to(memory_format=torch.channels_last)


def teach(teacher: nn.Module, small: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 3, 4h, 4w) in [0, 1]; the network adds to the picture enlarged by repeating px."""
    with torch.no_grad():
        detail = F.pixel_shuffle(teacher(small.contiguous(memory_format=torch.channels_last)).float(), 4)
        return (detail + F.interpolate(small, scale_factor=4, mode="nearest")).clamp(0, 1)


def low(x: Tensor) -> Tensor:
    """What a 5-px box leaves."""
    return F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)


def sharp_target(teacher: nn.Module, small: Tensor, truth: Tensor) -> Tensor:
    """The teacher's picture, its low band drawn to the truth's: sharp, and right where the teacher is wrong."""
    with half_where_fast(small.device):
        target = teach(teacher, small)
    return (target + low(low(truth) - low(target)).clamp(-0.1, 0.1)).clamp(0, 1)
