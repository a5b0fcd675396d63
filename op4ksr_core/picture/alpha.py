"""Transparency: enlarged by a rule of its own, and kept out of the colours."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Size
from .colour import low_band
from .resample import resize


def enlarge_alpha(alpha_b1hw: Tensor, target: Size) -> Tensor:
    """(B, 1, h, w) in [0, 1] -> `target`: bicubic, held between the least and the greatest of the 3x3 px around.

    So an edge does not ring, and wholly opaque or transparent areas stay exactly that.
    """
    if tuple(alpha_b1hw.shape[-2:]) == (target.height, target.width):
        return alpha_b1hw
    size = (target.height, target.width)
    ringed = F.pad(alpha_b1hw, (1, 1, 1, 1), mode="replicate")
    high = F.interpolate(F.max_pool2d(ringed, 3, 1), size, mode="nearest-exact")
    low = F.interpolate(-F.max_pool2d(-ringed, 3, 1), size, mode="nearest-exact")
    return resize(alpha_b1hw, target).clamp(low, high)


def fill_hidden(rgb_bchw: Tensor, alpha_b1hw: Tensor | None) -> Tensor:
    """The RGB with wholly transparent pixels taking the colour of the visible ones around them.

    What hides under alpha 0 is often black; upscaled as it is, it would bleed into the edge.
    """
    if alpha_b1hw is None or bool((alpha_b1hw > 0).all()):
        return rgb_bchw
    weight = low_band(alpha_b1hw)
    spread = low_band(rgb_bchw * alpha_b1hw) / weight.clamp(min=1e-6)
    hidden = (alpha_b1hw == 0) & (weight > 1e-6)
    return torch.where(hidden, spread, rgb_bchw).clamp(0, 1)
