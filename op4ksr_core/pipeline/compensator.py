"""The detail network of a host on diffusers' models, loaded when it is first asked for."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..model.compensation import HighFrequencyCompensation, compensate, load_compensation
from ..progress import Progress


class Compensator:
    """Adds fine detail; in bfloat16 where the models run in it, else in float32."""

    def __init__(self, device: torch.device, dtype: torch.dtype, file: Path | None = None):
        """Of `file`, which is read at once, else the bundled network. Raises WeightsError."""
        self._own = None if file is None else load_compensation(file)
        self.device, self.dtype = device, torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    @cached_property
    def _network(self) -> HighFrequencyCompensation:
        network = load_compensation() if self._own is None else self._own
        return network.to(self.device, self.dtype)

    def __call__(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        return compensate(picture, lr, strength, self._network, report)
