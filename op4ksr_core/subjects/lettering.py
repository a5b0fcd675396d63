"""Lettering: a small network that says where a picture holds text. How it was trained: recipes/lettering.py."""

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import Size, padded_side
from ..model.bundled import bundled_weights
from ..paths import LETTERING
from ..picture.checks import check_image
from ..picture.resample import pad_reflect

CELL = 4
"""px of the picture a place of the network's output has a side."""

_WIDTHS = (24, 32, 48, 64, 64)  # channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side
_MULTIPLE = 32
_LONGEST = 1536  # px: larger pictures are looked at in this size


class Lettering(nn.Module):
    """(B, 3, h, w) in [0, 1], sides multiples of 32 -> logits (B, 1, h/4, w/4): positive where there is text."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(12, _WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(_WIDTHS))
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in _WIDTHS[1:])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(_WIDTHS[1:]))
        self.join = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in _WIDTHS[1:-1])
        self.tail = nn.Conv2d(_WIDTHS[1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.head(F.pixel_unshuffle(x - 0.5, 2)))
        levels = []
        for down, mix in zip(self.down, self.mix, strict=True):
            x = F.relu(down(x))
            x = x + F.relu(mix(x))
            levels.append(x)
        for up, join, level in reversed(list(zip(self.up, self.join, levels[:-1], strict=True))):
            x = level + F.interpolate(up(x), scale_factor=2, mode="bilinear")
            x = x + F.relu(join(x))
        return self.tail(x)


@cache
def _network() -> Lettering:
    network = Lettering()
    network.load_state_dict(bundled_weights(LETTERING))
    return network.requires_grad_(False).eval()


def find_lettering(image_chw: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] -> how likely each px belongs to text, (H, W) in [0, 1]. Raises ImageError."""
    check_image(image_chw[None], "The picture to find lettering in")
    size = Size(*image_chw.shape[-2:])
    shrink = min(1.0, _LONGEST / max(size.height, size.width))
    x = image_chw[None].float().cpu()
    if shrink < 1:
        x = F.interpolate(x, scale_factor=shrink, mode="area")
    inner = Size(*x.shape[-2:])
    x = pad_reflect(x, Size(padded_side(inner.height, _MULTIPLE), padded_side(inner.width, _MULTIPLE)))
    with torch.inference_mode():
        likely = F.interpolate(_network()(x), scale_factor=CELL, mode="bilinear").sigmoid()
    likely = likely[..., : inner.height, : inner.width]
    return F.interpolate(likely, size=(size.height, size.width), mode="bilinear")[0, 0]
