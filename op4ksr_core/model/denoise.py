"""Takes noise and JPEG's traces out of the small picture, before anything enlarges them. Ours: recipes/denoiser.py."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import Size
from ..paths import DENOISER
from ..picture.checks import check_image
from ..picture.resample import channels_last, crop, pad_reflect
from ..settings import check_range
from .bundled import bundled_weights

_FACTOR, _AROUND, _STRIP = 2, 32, 512
"""px: what is folded into channels, how far the network sees, and the rows that are done at once."""


class Denoiser(nn.Module):
    """(B, 3, h, w) in [0, 1], sides even -> what is to be added so that noise goes. A new one adds nothing."""

    def __init__(self, width: int = 48, blocks: int = 5):
        super().__init__()
        self.head = nn.Conv2d(3 * _FACTOR**2, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2 * blocks))
        self.tail = nn.Conv2d(width, 3 * _FACTOR**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(F.pixel_unshuffle(x - 0.5, _FACTOR))
        for first, second in zip(self.body[::2], self.body[1::2], strict=True):
            x = x + second(F.relu(first(x)))
        return F.pixel_shuffle(self.tail(x), _FACTOR)


@cache
def _network() -> Denoiser:
    network = Denoiser()
    network.load_state_dict(bundled_weights(DENOISER))
    return network.requires_grad_(False).eval()


@torch.inference_mode()
def denoise(images: Tensor, amount: float) -> Tensor:
    """Pictures (B, 3, h, w) in [0, 1] without `amount` of their noise and JPEG artefacts, in [0, 1]: 0 keeps the grain.

    Works in strips of rows. Raises SettingError, ImageError.
    """
    check_range("Denoise", amount, 0, 1)
    check_image(images, "The picture to be denoised")
    if amount == 0:
        return images
    network, size = _network().to(images.device), Size(*images.shape[-2:])
    even = Size(size.height + size.height % 2, size.width + size.width % 2)
    x = channels_last(pad_reflect(images.float(), even))
    rows = []
    for top in range(0, even.height, _STRIP):
        first, last = max(0, top - _AROUND), min(even.height, top + _STRIP + _AROUND)
        added = network(x[:, :, first:last])
        rows.append(added[:, :, top - first : top - first + _STRIP])
    return (crop(x, size) + amount * crop(torch.cat(rows, 2), size)).clamp(0, 1)
