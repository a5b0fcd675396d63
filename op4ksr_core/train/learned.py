"""Parameters that are learned, by name, with their optimizer; saved and put back by name, sharded or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SettingError
from .settings import TrainSettings
from .sharding import by_kind, fill, fill_optimizer, like, optimizer_state


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The optimizer of that name. Raises SettingError where its package is not installed."""
    if name == "adamw":
        return torch.optim.AdamW
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise SettingError(f"--optimizer {name} needs torchao ({error}): pip install 'op4ksr[adamw8bit]'.") from error
    return AdamW8bit


def make_optimizer(
    parameters: dict[str, nn.Parameter], settings: TrainSettings, rate: float, name: str = "adamw"
) -> torch.optim.Optimizer:
    """The optimizer of that name at a learning rate, with the settings' weight decay."""
    groups = by_kind(list(parameters.values())) or [[]]  # which may be empty
    made: Any = optimizer_class(name)
    return made([{"params": group} for group in groups], lr=rate, weight_decay=settings.weight_decay)


class Learned:
    """Parameters by name and their optimizer, which may be replaced by accelerate's wrapper of it.

    With a decay `ema` a running average of the parameters is kept beside them.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], settings: TrainSettings, rate: float, ema: float = 0.0):
        self.parameters = parameters
        self.optimizer: Any = make_optimizer(parameters, settings, rate, settings.optimizer)
        self.ema = ema
        self.average: dict[str, Tensor] = {}
        """Of the parameters by name, where they lie; empty before the first step and without a decay."""

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Takes the parameters after an optimizer step, 1 for the first, into the average. The first steps count more:
        the decay is (1 + step) / (10 + step) at most."""
        if not self.ema:
            return
        share = 1 - min(self.ema, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            if name not in self.average:
                self.average[name] = parameter.detach().clone()
            self.average[name].lerp_(parameter.detach(), share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are their average."""
        held = {name: self.parameters[name].detach().clone() for name in self.average}
        _put(self.parameters, self.average)
        try:
            yield
        finally:
            _put(self.parameters, held)

    def values(self) -> list[nn.Parameter]:
        """The parameters, in order."""
        return list(self.parameters.values())

    def state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """(weights, moments) where they lie; of sharded ones the part that is here."""
        return dict(self.parameters), optimizer_state(self.optimizer, self.parameters)

    def restore_average(self, average: dict[str, Tensor]) -> None:
        """Puts back a whole average, where the parameters lie now."""
        self.average = {name: like(self.parameters[name].detach(), value).clone() for name, value in average.items()}

    def restore(self, weights: dict[str, Tensor], moments: dict[str, dict[str, Tensor]]) -> None:
        """Copies in whole weights and moments. Raises SettingError where it names other parameters."""
        odd = sorted(self.parameters.keys() ^ weights.keys())
        if odd:
            raise SettingError(
                f"The checkpoint is of another model: {', '.join(odd[:3])} ... ({len(odd)} tensors differ)."
            )
        for name, parameter in self.parameters.items():
            fill(parameter, weights[name])
        fill_optimizer(self.optimizer, self.parameters, moments)


@torch.no_grad()
def _put(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
