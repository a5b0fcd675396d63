"""Losses of the detail network, and how much stronger what it adds is shipped.

L1 makes detail fainter than it is. So the shipped network's detail is made stronger, and the guard of soft areas looks
at the picture with that stronger detail. The numbers were found on the bundled network.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.compensation import FACTOR, HighFrequencyCompensation
from ...picture.luma import FULL_RANGE
from ...picture.soft_areas import luma

LUMA_SHIPPED, CHROMA_SHIPPED = 1.9, 1.2
"""How much stronger the detail is made for shipping, in brightness and in colour."""

SOFT = 1 / 255
"""How strong the truth's detail is, at most, where it is soft."""

FLOOR = 0.5 / 255
"""What `strength` gives where there is no detail at all, so that its gradient stays bounded."""


def low(x_bchw: Tensor) -> Tensor:
    """What a 5-px box leaves."""
    return F.avg_pool2d(x_bchw, 5, 1, 2, count_include_pad=False)


def strength(x_bchw: Tensor) -> Tensor:
    """(B, 1, H, W): how strong the detail of brightness is around each px, as a deviation over 15 px."""
    y = luma(x_bchw)[:, None]
    return (F.avg_pool2d((y - low(y)).square(), 15, 1, 7, count_include_pad=False) + FLOOR**2).sqrt()


def soft_guard(made: Tensor, truth: Tensor) -> Tensor:
    """How much stronger the picture's detail is than the truth's, where that is soft: a scalar of (B, 3, H, W)."""
    wanted = strength(truth)
    excess = (strength(made) - wanted - 0.25 * SOFT).relu() * (wanted < SOFT + FLOOR)
    return excess.mean()


def colour_error(made: Tensor, truth: Tensor) -> Tensor:
    """L1 of each channel's difference from brightness: a scalar of (B, 3, H, W)."""
    error = made - truth
    return (error - luma(error)[:, None]).abs().mean()


@torch.no_grad()
def scale_detail(module: HighFrequencyCompensation, luma: float, chroma: float) -> None:
    """Multiplies what a network adds by `luma` in brightness and `chroma` in colour, by its last convolution.

    What it adds to flat pictures, a constant for each of the 16 places, is taken out of the convolution's bias.
    """
    weights = module.tail.weight.new_tensor(FULL_RANGE)
    for parameter in (module.tail.weight, module.tail.bias):
        assert parameter is not None
        rows = parameter.unflatten(0, (3, FACTOR**2))
        brightness = torch.einsum("cp...,c->p...", rows, weights)[None]
        parameter.copy_((chroma * (rows - brightness) + luma * brightness).flatten(0, 1))
    greys = torch.linspace(0.05, 0.95, 19).to(weights)[:, None, None, None].expand(-1, 3, -1, -1)
    added = module(greys.expand(-1, -1, 40, 40), greys.expand(-1, -1, 160, 160))
    assert module.tail.bias is not None
    module.tail.bias -= F.pixel_unshuffle(added, FACTOR)[:, :, 20, 20].mean(0)
