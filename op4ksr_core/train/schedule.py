"""Learning rates over a training: a function of the step alone, so that a resumed run goes on with the same ones."""

import math
from typing import Any

from torch import Tensor

from .settings import TrainSettings


def rate_factor(settings: TrainSettings, step: int) -> float:
    """What the learning rates are multiplied by at a step, 0 for the first: in (0, 1].

    The first `warmup` steps rise in a line to 1. After them `constant` stays there, `linear` falls in a line and
    `cosine` along half a wave, to reach 0 one step after the last.
    """
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    left = max(0.0, 1 - done)
    return left if settings.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def set_rate(optimizer: Any, rate: float) -> None:
    """The learning rate of all of an optimizer's parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # of torchao's optimizers
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
