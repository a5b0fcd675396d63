"""NaN and infinity in what a model gave."""

import math

import torch
from torch import Tensor

from ..errors import PrecisionError


def check_finite(x: Tensor, phase: str, dtype: torch.dtype, remedy: str) -> Tensor:
    """Returns `x`, what `phase` gave in `dtype`. Raises PrecisionError, with the remedy, on NaN or infinity."""
    if math.isfinite(float(x.sum(dtype=torch.float32))):
        return x
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        raise PrecisionError(f"{phase} gave NaN or infinity in {name}, whose largest number is 65504. {remedy}")
    raise PrecisionError(f"{phase} gave NaN or infinity in {name}: the weights or adapters are damaged or do not fit.")
