"""LPIPS (arXiv 1801.03924) over windows that cover the whole picture, the last rows and columns too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SettingError, WeightsError

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
    a, b = prediction_bchw.float() * 2 - 1, target_bchw.detach().float() * 2 - 1
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


def load_lpips(weights: str | Path) -> nn.Module:
    """LPIPS with VGG-16 from torchvision's weight file `vgg16-397923af.pth`; the linear layers come with `lpips`.

    Raises WeightsError where the file is not given, missing or another network's, or where `lpips` is not installed.
    """
    wanted = "LPIPS wants torchvision's VGG-16 weights, vgg16-397923af.pth (--lpips-weights FILE)"
    path = Path(weights).expanduser() if weights else None
    if path is None or not path.is_file():
        raise WeightsError(f"{wanted}; got {str(path) if path else 'no file'}. Or set the weight of lpips to 0.")
    try:
        import lpips
    except ImportError as error:
        raise WeightsError(
            "LPIPS needs two packages: pip install lpips torchvision. Or set its weight to 0."
        ) from error
    network: Any = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = torch.load(path, weights_only=True, map_location="cpu")
    renamed = {}
    for name in network.net.state_dict():
        number, part = name.split(".")[-2:]
        if f"features.{number}.{part}" not in state:
            raise WeightsError(f"{wanted}; {path} has no features.{number}.{part}.")
        renamed[name] = state[f"features.{number}.{part}"]
    network.net.load_state_dict(renamed)
    return network.requires_grad_(False).eval()
