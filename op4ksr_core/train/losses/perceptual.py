"""LPIPS (arXiv 1801.03924) over windows that cover the whole picture, the last rows and columns too."""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...picture.precision import at_least_single
from ...picture.tiles import even_starts

Distance = Callable[[Tensor, Tensor], Tensor]
"""(B, 3, h, w) and the same in [-1, 1] -> a distance per picture, any shape that begins with B."""


def windowed_distance(
    distance: Distance,
    prediction_bchw: Tensor,
    target_bchw: Tensor,
    window: int = 256,
    overlap: int = 32,
    draw: int = 0,
    seed: int = 0,
) -> Tensor:
    """Mean of `distance` over the windows of pictures in [0, 1], float32: a scalar. The target is detached.

    With `draw` above 0, over that many windows drawn by `seed`. Each window's activations are computed again for its
    gradient in place of being kept: a picture of 4096 px has 361 windows of 256.
    """
    a, b = (at_least_single(x) * 2 - 1 for x in (prediction_bchw, target_bchw.detach()))
    height, width = a.shape[-2:]
    places = [(t, x) for t in even_starts(height, window, overlap) for x in even_starts(width, window, overlap)]
    if 0 < draw < len(places):
        places = random.Random(seed).sample(places, draw)
    parts = []
    for top, left in places:
        cut = (..., slice(top, top + window), slice(left, left + window))
        parts.append(checkpoint(distance, a[cut], b[cut], use_reentrant=False).mean())
    return torch.stack(parts).mean()


class PerceptualLoss(nn.Module):
    """`windowed_distance` with a frozen network."""

    def __init__(self, network: nn.Module, window: int = 256, overlap: int = 32, draw: int = 0):
        super().__init__()
        self.network, self.window, self.overlap = network.requires_grad_(False).eval(), window, overlap
        self.draw = draw

    def forward(self, prediction_bchw: Tensor, target_bchw: Tensor, seed: int = 0) -> Tensor:
        places = (self.window, self.overlap, self.draw, seed)
        return windowed_distance(self.network, prediction_bchw, target_bchw, *places)
