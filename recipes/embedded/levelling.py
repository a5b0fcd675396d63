"""Makes the 16 places of a cell alike on average, so that the detail network draws no lattice of 4 px on noise.

The last convolution writes each of the 4x4 px of a cell by weights of their own. On noise, which the training
hardly has, their means differ by some 2/255. The smallest change of the middle taps and the bias takes that away,
on noise and on flat pictures alike; what the network adds elsewhere hardly changes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from op4ksr_core.model.compensation import FACTOR, HighFrequencyCompensation, network_of
from op4ksr_core.pipeline.upscaler import Upscaler

from .loop import read, write

_SIDE, _BORDER = 128, 16  # px of the small pictures, and of the frame that the zeros around are seen in
_SMALLEST = 1e-4  # of the largest singular value


def small_pictures(seed: int) -> list[Tensor]:
    """Greys, and noise: of each px and channel, weaker, and grey. (1, 3, 128, 128) each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 3, _SIDE, _SIDE)
    greys = [torch.full(shape, float(level)) for level in torch.linspace(0.05, 0.95, 7)]
    even = [torch.rand(shape, generator=generator) for _ in range(4)]
    weak = [(0.5 + 0.15 * torch.randn(shape, generator=generator)).clamp(0, 1) for _ in range(3)]
    grey = [(0.5 + 0.1 * torch.randn(1, 1, _SIDE, _SIDE, generator=generator)).expand(shape) for _ in range(3)]
    return [*greys, *even, *weak, *(picture.clamp(0, 1) for picture in grey)]


def without_detail() -> Callable[[Tensor], Tensor]:
    """The bundled model's picture, x4, before the detail network."""
    upscaler = Upscaler.from_embedded(dtype=torch.float32)
    settings = replace(upscaler.settings, compensation=0.0)
    return lambda small: upscaler(small, FACTOR, settings)


@torch.no_grad()
def means(module: HighFrequencyCompensation, small: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """(the last features' means (C,), the mean of what is added at each place, (3, 16)) of one picture."""
    inner = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
    hidden = module.body(module.head(module.folded(small, picture)))
    added = module.tail(hidden)[inner].mean((0, 2, 3))
    return hidden[inner].mean((0, 2, 3)), added.unflatten(0, (3, FACTOR**2))


def unevenness(added: Tensor) -> Tensor:
    """How far the places are from their mean, of (..., 3, 16)."""
    return added - added.mean(-1, keepdim=True)


@torch.no_grad()
def level_places(module: HighFrequencyCompensation, enlarge: Callable[[Tensor], Tensor], seed: int = 100) -> None:
    """Changes the last convolution, in place, so that the places' means are alike on `small_pictures`."""
    pairs = [means(module, small, enlarge(small)) for small in small_pictures(seed)]
    features = torch.stack([F.pad(feature, (0, 1), value=1.0) for feature, _ in pairs]).double()
    wanted = -unevenness(torch.stack([added for _, added in pairs])).flatten(1).double()
    change = torch.linalg.lstsq(features, wanted, rcond=_SMALLEST, driver="gelsd").solution.float()
    module.tail.weight[:, :, 1, 1] += change[:-1].T
    assert module.tail.bias is not None
    module.tail.bias += change[-1]


def level(start: Path, to: Path, enlarge: Callable[[Tensor], Tensor]) -> None:
    """`level_places` of a file's network."""
    module = network_of(read(start))
    level_places(module, enlarge)
    write(to, module.state_dict())
