"""The transformer on windows of the latent, for models that know one size only (OMGSR, arXiv 2508.08227)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..picture.tiles import stepped_starts


class Place(NamedTuple):
    """Where a window lies in its latent, in latent px."""

    top: int
    left: int


def in_windows(
    z_bchw: Tensor, side: int, work: Callable[[Tensor], Tensor], overlap: int = 0, weights: str = "linear"
) -> Tensor:
    """As `in_placed_windows`, for work that does not ask where a window lies."""
    return in_placed_windows(z_bchw, side, lambda part, place: work(part), overlap, weights)


def in_placed_windows(
    z_bchw: Tensor, side: int, work: Callable[[Tensor, Place], Tensor], overlap: int = 0, weights: str = "linear"
) -> Tensor:
    """`work` on windows of `side` x `side` latent px, and their weighted mean; each shares `overlap` px with the next,
    half a window if 0.

    `side` is even and at least 4. `weights` (one of settings.WINDOW_WEIGHTS) fall from a window's middle to its
    border, so that no seam is left; the last window of a row lies at the end of it. A latent that is no larger than a
    window is worked on whole.
    """
    of_rows, of_columns = {"linear": (_ramp, _ramp), "gaussian": (_bell_of_rows, _bell)}[weights]
    height, width = z_bchw.shape[-2:]
    rows, columns = starts(height, side, overlap), starts(width, side, overlap)
    if len(rows) == len(columns) == 1:
        return work(z_bchw, Place(0, 0))
    total = torch.zeros_like(z_bchw)
    shares = z_bchw.new_zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            at = (..., slice(top, min(height, top + side)), slice(left, min(width, left + side)))
            part = work(z_bchw[at].contiguous(), Place(top, left))
            weight = of_rows(part.shape[-2], z_bchw)[:, None] * of_columns(part.shape[-1], z_bchw)
            total[at] += weight * part
            shares[at] += weight
    return total / shares


def starts(length: int, side: int, overlap: int = 0) -> list[int]:
    """Where the windows begin along an axis, at even px (a token is two latent px wide)."""
    step = max(2, (side - overlap if overlap else side // 2) // 2 * 2)
    return stepped_starts(length, side, step)


def _ramp(length: int, like: Tensor) -> Tensor:
    at = torch.arange(length, device=like.device, dtype=like.dtype)
    return torch.minimum(at + 1, length - at) / length


def _bell(length: int, like: Tensor, middle: float | None = None) -> Tensor:
    """A Gaussian of variance 0.01 of the squared length, as in the code of OSEDiff (arXiv 2406.08177) and OMGSR."""
    middle = (length - 1) / 2 if middle is None else middle
    at = (torch.arange(length, device=like.device, dtype=like.dtype) - middle) / length
    return torch.exp(-at.square() / (2 * 0.01))


def _bell_of_rows(length: int, like: Tensor) -> Tensor:
    """Their code has the middle of the rows half a px below that of the window."""
    return _bell(length, like, length / 2)
