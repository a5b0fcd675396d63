"""Group norms that do not get used to a map's border, for training the decoder.

A group norm takes its statistics from the whole map, and a decoder that is trained on small crops learns to set them
itself: it draws one huge value where zero padding tells it that there is a corner (StyleGAN's droplet, arXiv
1912.04958, section 2), and divides by that. Its share shrinks with the map's area, so at 4096 px nothing is as it was
in training. Here the statistics come from the map's inside, half of the time over all crops of the batch, as a large
picture's would, and what stands out at the border costs something; trained so, the same weights run under plain group
norms at any size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BORDER = 6
"""A sixth of the map on every side counts as border: two latent px of a crop of 192 px."""

ALLOWED = 4.0
"""Energy of a border px, in that of the inside, which is not yet a droplet."""

DROPLET = 0.2
"""Weight of `excess_of` beside a loss of about 0.06."""


SEEN = 4
"""One crop in so many is looked at for droplets."""


class InnerNorm(nn.GroupNorm):
    """A group norm by the statistics of the inside; `excess` is how far the border stood out in its last forward."""

    pooled = False
    excess: Tensor

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = inner_statistics(x, self.num_groups, self.pooled, self.eps)
        slope = self.weight[:, None, None] / deviation
        some, own = x[::SEEN], slice(None) if self.pooled else slice(None, None, SEEN)
        energy = ((some.float() - mean[own]) / deviation[own]).square().mean(1)
        self.excess = (energy / ALLOWED).clamp(min=1).log().mean()
        return torch.addcmul(self.bias[:, None, None] - mean * slope, x, slope).to(x.dtype)


def inside(x: Tensor) -> Tensor:
    """The map without its border."""
    rows, columns = (side // BORDER for side in x.shape[-2:])
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]


def inner_statistics(x: Tensor, groups: int, pooled: bool, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B or 1, C, 1, 1) of each group of channels, the border left out."""
    inner = inside(x).float().unflatten(1, (groups, -1))
    dims = (0, 2, 3, 4) if pooled else (2, 3, 4)
    variance, mean = torch.var_mean(inner, dims, correction=0, keepdim=True)
    each = x.shape[1] // groups
    mean, deviation = (v[:, :, 0].repeat_interleave(each, 1) for v in (mean, (variance + eps).sqrt()))
    return mean, deviation


def norms_of(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, nn.GroupNorm)]


@contextmanager
def inner_norms(module: nn.Module, pooled: bool) -> Iterator[None]:
    """Inside, the module's group norms are InnerNorms; parameters and their names stay."""
    norms = norms_of(module)
    for norm in norms:
        norm.__class__, norm.pooled = InnerNorm, pooled
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.GroupNorm


def excess_of(module: nn.Module) -> Tensor:
    """Of the last forward under `inner_norms`, mean over the norms."""
    return torch.stack([norm.excess for norm in norms_of(module)]).mean()
