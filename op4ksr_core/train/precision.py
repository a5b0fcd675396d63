"""The precision that frozen weights are kept in."""

import torch

from .settings import TrainSettings


def frozen_dtype(settings: TrainSettings) -> torch.dtype:
    """bfloat16 or float32, as the setting `precision` asks. What is trained is always float32."""
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32
