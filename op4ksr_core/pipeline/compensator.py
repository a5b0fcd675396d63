"""The detail network of a host on diffusers' models, loaded when it is first asked for."""

from functools import cached_property

import torch
from torch import Tensor

from ..model.compensation import HighFrequencyCompensation, compensate, load_compensation
from ..progress import Progress


class Compensator:
    """Adds fine detail; in bfloat16 where the models run in it, else in float32."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    @cached_property
    def _network(self) -> HighFrequencyCompensation:
        return load_compensation().to(self.device, self.dtype)

    def __call__(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        return compensate(picture, lr, strength, self._network, report)
