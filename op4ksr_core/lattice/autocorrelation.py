"""Autocorrelation, and L_AP, OP4KSR's periodicity loss on it (arXiv 2605.13457): a measure here, a loss in training.

1 / (2 Q C |K|) * sum over quadrants, channels, axes and lags of (A(pred) - A(target))^2.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError
from ..picture.precision import at_least_single
from ..settings import check_choice

LAGS = (8, 16, 24, 32, 40)
"""Lags in picture pixels."""

Highpass = Literal["none", "binomial", "box"]
Normalise = Literal["none", "variance"]
HIGHPASSES: tuple[Highpass, ...] = get_args(Highpass)
NORMALISATIONS: tuple[Normalise, ...] = get_args(Normalise)

BOX = 33
"""px of the box whose mean `highpass` takes away: one more than a token's 32, so that the token's own lattice stays."""


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


def highpass(x_bchw: Tensor, kind: Highpass = "binomial") -> Tensor:
    """(B, C, H, W) without its low band: `binomial` takes the mean under [1, 2, 1]^2 / 16 away, `box` that of 33x33 px.

    Borders are mirrored. `none` gives the picture back. Raises ImageError where a side is too short for the box.
    """
    check_choice("highpass", kind, HIGHPASSES)
    if kind == "none":
        return x_bchw
    x = at_least_single(x_bchw)
    if kind == "binomial":
        taps = x.new_tensor([0.25, 0.5, 0.25])
        kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
        return x - F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), kernel, groups=x.shape[1])
    half = BOX // 2
    if min(x.shape[-2:]) <= half:
        raise ImageError(f"A box of {BOX} px needs sides above {half} px, got {x.shape[-1]}x{x.shape[-2]} px.")
    return x - F.avg_pool2d(F.pad(x, (half,) * 4, mode="reflect"), BOX, 1)


def autocorrelation_loss(
    prediction_bchw: Tensor,
    target_bchw: Tensor,
    lags: Sequence[int] = LAGS,
    remove_mean: bool = True,
    normalise: Normalise = "none",
    highpassed: Highpass = "none",
) -> Tensor:
    """L_AP of pictures in [0, 1], mean over the batch: a scalar; the target is detached.

    As the paper has it (both options `none`), its value goes with the fourth power of a pattern's amplitude, and low
    frequencies, which hold most of a picture's power, rule it: it hardly sees a faint lattice in a textured picture.
    `highpassed` compares the autocorrelations of both pictures without their low band. `normalise="variance"` divides
    them by the target's variance (of what is compared) in that quadrant and channel, plus that of 1/255, so that quiet
    quadrants count. `benchmarks/lattice_slopes.py` measures what each form pulls at a lattice with.
    """
    check_choice("normalise", normalise, NORMALISATIONS)
    prediction, target = (quadrants(highpass(x, highpassed)) for x in (prediction_bchw, target_bchw.detach()))
    difference = autocorrelation(prediction, lags, remove_mean) - autocorrelation(target, lags, remove_mean)
    if normalise == "variance":
        difference = difference / (at_least_single(target).var((-2, -1))[..., None, None] + 255**-2)
    return difference.pow(2).mean()
