"""Parameters that are learned, by name, with their optimizer; saved and put back by name, sharded or not."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SettingError
from .settings import TrainSettings
from .sharding import by_kind, fill, fill_optimizer, optimizer_state, whole


def adamw(parameters: dict[str, nn.Parameter], settings: TrainSettings, rate: float) -> torch.optim.AdamW:
    """AdamW at a learning rate, with the settings' weight decay."""
    groups = by_kind(list(parameters.values())) or [[]]  # which may be empty
    return torch.optim.AdamW([{"params": group} for group in groups], lr=rate, weight_decay=settings.weight_decay)


class Learned:
    """Parameters by name and their AdamW. `optimizer` may be replaced by accelerate's wrapper of it."""

    def __init__(self, parameters: dict[str, nn.Parameter], settings: TrainSettings, rate: float):
        self.parameters = parameters
        self.optimizer: Any = adamw(parameters, settings, rate)

    def values(self) -> list[nn.Parameter]:
        """The parameters, in order."""
        return list(self.parameters.values())

    def state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """(weights, moments), whole. Sharded: to be called in all processes at once."""
        weights = {name: whole(parameter) for name, parameter in self.parameters.items()}
        return weights, optimizer_state(self.optimizer, self.parameters)

    def restore(self, weights: dict[str, Tensor], moments: dict[str, dict[str, Tensor]]) -> None:
        """Copies in what `state` gave. Raises SettingError where it names other parameters."""
        odd = sorted(self.parameters.keys() ^ weights.keys())
        if odd:
            raise SettingError(
                f"The checkpoint is of another model: {', '.join(odd[:3])} ... ({len(odd)} tensors differ)."
            )
        for name, parameter in self.parameters.items():
            fill(parameter, weights[name])
        fill_optimizer(self.optimizer, self.parameters, moments)
