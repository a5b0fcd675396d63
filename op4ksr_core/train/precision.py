"""The precision that frozen weights are kept in, and networks run in."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from .settings import TrainSettings

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def frozen_dtype(settings: TrainSettings) -> torch.dtype:
    """As the setting `precision` asks. What is trained is always float32."""
    return _DTYPES[settings.precision]


def autocast(accelerator: Any, settings: TrainSettings) -> AbstractContextManager[None]:
    """What the networks run in. float16 is ours: accelerate's has one scaler for all optimizers, and none on a CPU."""
    if settings.precision == "fp16":
        return torch.autocast(accelerator.device.type, torch.float16)
    return accelerator.autocast()


def make_scaler(settings: TrainSettings, device: torch.device) -> torch.amp.GradScaler:
    """Scales a loss so that float16 gradients do not vanish; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
