"""Group norm from sums over strips of rows: exact for large maps, and able to see a map piece by piece."""

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layer_weights import weights_of
from .rowwise import strip_rows, strips

log = logging.getLogger("op4ksr")

WAY = {"cpu": "torch", "cuda": "torch"}
"""By device, what norms a map: PyTorch, or the Triton kernels of `norm_kernels`, which read it twice and write it once.
`benchmarks/gpu` compares them on a card; until they have run on one, PyTorch does it."""

Affine = tuple[Tensor, Tensor]
"""Factor and summand per channel, each (B, C, 1, 1) in float32."""


class Moments:
    """Sums over all strips of a map, from which a group norm's mean and variance follow (float64).

    Summed about the first strip's mean, so that a large mean does not drown a small deviation.
    """

    def __init__(self) -> None:
        self.count, self.origin = 0, torch.zeros(())
        self.sums, self.squares = torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Counts a strip (B, C, rows, W)."""
        if by_triton(x):
            self._add_by_triton(x)
            return
        rows = x.float().permute(0, 2, 3, 1).flatten(1, 2)
        if not self.count:
            self.origin = rows.mean(1, keepdim=True)
            self.sums = self.squares = torch.zeros_like(self.origin[:, 0], dtype=torch.float64)
        self.count += rows.shape[1]
        rows = rows - self.origin
        self.sums = self.sums + rows.sum(1).double()
        self.squares = self.squares + torch.mul(rows, rows, out=rows).sum(1).double()

    def _add_by_triton(self, x: Tensor) -> None:
        from .norm_kernels import channel_sums

        if not self.count:
            self.origin = x[:, :, 0, 0].float()[:, None]
            self.sums = self.squares = torch.zeros_like(self.origin[:, 0], dtype=torch.float64)
        sums, squares = channel_sums(x, self.origin[:, 0])
        self.count += x.shape[2] * x.shape[3]
        self.sums, self.squares = self.sums + sums, self.squares + squares

    def affine(self, norm: nn.GroupNorm) -> Affine:
        """What `norm` does to the map that was counted."""
        batch, channels = self.sums.shape
        each = channels // norm.num_groups
        means = self.sums / self.count
        variances = self.squares / self.count - means.square()
        means = (means + self.origin[:, 0]).view(batch, -1, each)
        mean = means.mean(2)
        variance = variances.view(batch, -1, each).mean(2) + (means - mean[..., None]).square().mean(2)
        deviation = (variance.clamp_min(0) + norm.eps).sqrt()
        mean, deviation = (v.repeat_interleave(each, 1) for v in (mean, deviation))
        scale, shift = 1 / deviation, -mean / deviation
        if norm.affine:
            with weights_of(norm, self.origin) as (weight, bias):
                assert bias is not None
                scale, shift = scale * weight.double(), shift * weight.double() + bias.double()
        return scale.float()[..., None, None], shift.float()[..., None, None]


def normalised(x: Tensor, affine: Affine) -> Tensor:
    """scale x + shift, float32, a tensor of its own."""
    scale, shift = affine
    return torch.addcmul(shift, x.float(), scale)


def by_triton(x: Tensor) -> bool:
    """Whether the Triton kernels, which have no gradient, norm this map (B, C, H, W)."""
    return WAY.get(x.device.type) == "triton" and not torch.is_grad_enabled() and has_triton()


@cache
def has_triton() -> bool:
    """Whether Triton can be imported; logged once where it cannot."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        log.warning("The VAE's norms run in PyTorch: same picture, slower, for want of Triton (%s).", error)
        return False
    return True


def silu_of(x: Tensor, affine: Affine) -> Tensor:
    """SiLU(scale x + shift), a tensor of its own in the dtype of x (B, C, H, W)."""
    if by_triton(x):
        from .norm_kernels import scaled

        return scaled(x, *affine, silu=True)
    return F.silu(normalised(x, affine), inplace=True).to(x.dtype)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU of a group norm of a map (B, C, H, W), from its moments."""
    moments = Moments()
    moments.add(x)
    return silu_of(x, moments.affine(norm))


class ExactGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` for inference, exact for large maps on a CPU too.

    PyTorch's own sums a channels-last map there in float32: at 2048 x 2048 x 32 and a mean of half a deviation it is
    off by 0.016 deviations, and an embedded model's picture of 4096 px by 0.4/255.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.ndim != 4:
            return super().forward(x)
        moments, out, rows = Moments(), torch.empty_like(x), strip_rows(x)
        for first, last in strips(x.shape[2], rows):
            moments.add(x[:, :, first:last])
        affine = scale, shift = moments.affine(self)
        for first, last in strips(x.shape[2], rows):
            part, place = x[:, :, first:last], out[:, :, first:last]
            if x.dtype == torch.float32:
                torch.addcmul(shift, part, scale, out=place)
            else:
                place.copy_(normalised(part, affine))
        return out


def make_exact(module: Any) -> None:
    """Turns every group norm in a module into an `ExactGroupNorm`, in place; parameters and their names stay."""
    for norm in module.modules():
        if type(norm) is nn.GroupNorm:
            norm.__class__ = ExactGroupNorm
