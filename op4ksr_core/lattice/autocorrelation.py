"""Autocorrelation, and L_AP, OP4KSR's periodicity loss on it (arXiv 2605.13457): a measure here, a loss in training.

1 / (2 Q C |K|) * sum over quadrants, channels, axes and lags of (A(pred) - A(target))^2.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from ..picture.precision import at_least_single

LAGS = (8, 16, 24, 32, 40)
"""Lags in picture pixels."""


def quadrants(x_bchw: Tensor) -> Tensor:
    """(B, C, H, W) -> (4, B, C, H//2, W//2); an odd side loses its last line."""
    height, width = (side // 2 * 2 for side in x_bchw.shape[-2:])
    return rearrange(x_bchw[..., :height, :width], "b c (i h) (j w) -> (i j) b c h w", i=2, j=2)


def autocorrelation(x: Tensor, lags: Sequence[int] = LAGS, remove_mean: bool = True) -> Tensor:
    """Unbiased autocorrelation of (..., H, W) along both axes, no wrap-around: (..., 2, len(lags)).

    Index 0 of the second to last axis is horizontal, 1 vertical. Raises ImageError if a side is
    not longer than the largest lag.
    """
    if min(x.shape[-2:]) <= max(lags):
        raise ImageError(
            f"Autocorrelation at lag {max(lags)} px needs sides above it, got {x.shape[-1]}x{x.shape[-2]} px "
            "(L_AP halves the picture first)."
        )
    x = at_least_single(x)
    if remove_mean:
        x = x - x.mean(dim=(-2, -1), keepdim=True)
    horizontal = [(x[..., :, lag:] * x[..., :, :-lag]).mean(dim=(-2, -1)) for lag in lags]
    vertical = [(x[..., lag:, :] * x[..., :-lag, :]).mean(dim=(-2, -1)) for lag in lags]
    return torch.stack([torch.stack(horizontal, -1), torch.stack(vertical, -1)], -2)


def autocorrelation_loss(
    prediction_bchw: Tensor,
    target_bchw: Tensor,
    lags: Sequence[int] = LAGS,
    remove_mean: bool = True,
    normalise: bool = False,
) -> Tensor:
    """L_AP of pictures in [0, 1], mean over the batch: a scalar; the target is detached.

    As the paper has it, its value goes with the fourth power of a pattern's amplitude, and quadrants of strong contrast
    outweigh all others. `normalise` divides both autocorrelations by the target's variance in that quadrant and channel
    (plus that of 1/255), so that flat quadrants count.
    """
    target = quadrants(target_bchw.detach())
    a, b = (autocorrelation(x, lags, remove_mean) for x in (quadrants(prediction_bchw), target))
    difference = a - b
    if normalise:
        difference = difference / (at_least_single(target).var((-2, -1))[..., None, None] + 255**-2)
    return difference.pow(2).mean()
