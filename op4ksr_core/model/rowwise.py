"""Feature maps worked on in strips of rows: what one pass over the whole gives, with copies of a strip's size only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layer_weights import weights_of

_ELEMENTS = {"cpu": 2**20, "cuda": 2**23}
"""Numbers in one strip: on a CPU what stays in the cache, on a GPU enough to fill it."""

STRIP_BYTES = 6 * 4 * _ELEMENTS["cuda"]
"""What work in strips takes beside its maps, at most: about six at once, in float32."""


def strip_rows(x: Tensor) -> int:
    """Rows of a map (B, C, H, W) in one strip, at least two."""
    return max(2, _ELEMENTS.get(x.device.type, _ELEMENTS["cuda"]) // (x.shape[0] * x.shape[1] * x.shape[3]))


def strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """First and last row (not included) of each strip of a map."""
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


Layer = Callable[[int, int], Tensor]
"""Rows from first to last (not included) of a layer's result."""


@dataclass(frozen=True)
class Map:
    """A feature map (B, C, height, W) that is read in strips of rows: kept whole, or made when it is read."""

    height: int
    strip: int
    read: Layer
    kept: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> "Map":
        """A map that is kept."""
        return cls(x.shape[2], strip_rows(x), lambda first, last: x[:, :, first:last], x)

    def strips(self) -> Iterator[tuple[int, int]]:
        """First and last row (not included) of each strip."""
        return strips(self.height, self.strip)

    def window(self, first: int, last: int, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Rows from `first` to `last`, changed if wanted, and zeros beyond the map's ends."""
        inside = self.read(max(0, first), min(self.height, last))
        inside = inside if change is None else change(inside)
        above, below = max(0, -first), max(0, last - self.height)
        return F.pad(inside, (0, 0, above, below)) if above or below else inside


def conv_rows(conv: nn.Conv2d, window: Tensor) -> Tensor:
    """A 3x3 convolution of rows that bring their neighbours along."""
    with weights_of(conv, window) as (weight, bias):
        return F.conv2d(window, weight, bias, conv.stride, (0, conv.padding[1]))  # type: ignore[arg-type]


def kept(layer: Layer, height: int, rows: int, watch: Callable[[Tensor], None] | None = None) -> Map:
    """A map of `height` from `layer(first, last)`, which gives rows of it, `rows` at a time; `watch` sees them."""
    out: Tensor | None = None
    for first, last in strips(height, max(1, rows)):
        part = layer(first, last)
        out = _like(part, height) if out is None else out
        if watch is not None:
            watch(part)
        out[:, :, first:last] = part
    assert out is not None
    return Map.of(out)


def overwritten(layer: Layer, target: Map) -> Map:
    """The same over a kept map that the layer itself reads, one row beyond the strip at most."""
    assert target.kept is not None
    waiting: tuple[int, int, Tensor] | None = None
    for first, last in target.strips():
        rows = layer(first, last)
        # The next strip still reads the last rows of this one, so it is written one strip later.
        if waiting is not None:
            target.kept[:, :, waiting[0] : waiting[1]] = waiting[2]
        waiting = (first, last, rows)
    assert waiting is not None
    target.kept[:, :, waiting[0] : waiting[1]] = waiting[2]
    return target


def _like(rows: Tensor, height: int) -> Tensor:
    size = (*rows.shape[:2], height, rows.shape[3])
    return torch.empty(size, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
