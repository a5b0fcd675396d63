"""LPIPS (arXiv 1801.03924) over windows that cover the whole picture, the last rows and columns too."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...picture.precision import at_least_single

Distance = Callable[[Tensor, Tensor], Tensor]
"""(B, 3, h, w) and the same in [-1, 1] -> a distance per picture, any shape that begins with B."""


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Where windows begin so that all of `length` is covered; the last one ends at the border. Raises SettingError."""
    if window < 1 or not 0 <= overlap < window:
        raise SettingError(
            f"Windows overlap by less than their side, got a window of {window} and overlap {overlap} px."
        )
    if length <= window:
        return [0]
    count = -(-(length - overlap) // (window - overlap))
    return [round(n * (length - window) / (count - 1)) for n in range(count)]


def windowed_distance(
    distance: Distance, prediction_bchw: Tensor, target_bchw: Tensor, window: int = 256, overlap: int = 32
) -> Tensor:
    """Mean of `distance` over the windows of pictures in [0, 1], float32: a scalar. The target is detached."""
    a, b = (at_least_single(x) * 2 - 1 for x in (prediction_bchw, target_bchw.detach()))
    height, width = a.shape[-2:]
    places = [(t, x) for t in window_starts(height, window, overlap) for x in window_starts(width, window, overlap)]
    parts = [
        distance(a[..., t : t + window, x : x + window], b[..., t : t + window, x : x + window]).mean()
        for t, x in places
    ]
    return torch.stack(parts).mean()


class PerceptualLoss(nn.Module):
    """`windowed_distance` with a frozen network."""

    def __init__(self, network: nn.Module, window: int = 256, overlap: int = 32):
        super().__init__()
        self.network, self.window, self.overlap = network.requires_grad_(False).eval(), window, overlap

    def forward(self, prediction_bchw: Tensor, target_bchw: Tensor) -> Tensor:
        return windowed_distance(self.network, prediction_bchw, target_bchw, self.window, self.overlap)
