"""In what precision measures and losses are taken."""

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """float32, or float64 where x is: half precision loses what a loss adds up."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
