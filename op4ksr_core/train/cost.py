"""How long a training computes at the least: floating-point operations counted on the meta device, over what the
device's matrix product reaches when it is measured."""

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..geometry import Size
from .precision import frozen_dtype
from .settings import TrainSettings
from .strategies.flow import FlowStrategy

_SIDE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class Cost:
    """operations: of all steps, on all processes together. speed: operations per second of one process."""

    operations: float
    speed: float
    processes: int

    @property
    def hours(self) -> float:
        return self.operations / (self.speed * self.processes) / 3600

    def __str__(self) -> str:
        over = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        return (
            f"{self.operations / 1e15:.3g} PFLOP in all; at the {self.speed / 1e12:.2g} TFLOP/s of this device's "
            f"matrix product, over {over}, {self.hours:.2g} h at the least (reading, LPIPS and the "
            "adversarial network not counted)"
        )


def operations_of_a_picture(model: FlowStrategy, settings: TrainSettings) -> float:
    """Forward and backward passes of one picture of the largest crop; `model` comes from `meta_model`.

    Frozen weights need no gradient of their own, so a backward pass counts as one forward pass, and checkpointing as
    another. VSD adds the prior twice and the regulariser once, and the regulariser's own training.
    """
    side = settings.crop
    lr = torch.zeros(1, 3, side // settings.scale, side // settings.scale, device="meta")
    latent = torch.zeros(1, model.channels, side // model.factor, side // model.factor, device="meta")
    sigma = torch.full((1,), 0.5, device="meta")
    passes = 2 + settings.checkpointing
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        model(lr, Size(side, side))
    with torch.no_grad(), FlopCounterMode(display=False) as prior:
        model.velocity(latent, sigma, model.prompt, model.pooled)
    vsd = (3 + passes) * prior.get_total_flops() if settings.losses.vsd else 0
    return float(passes * whole.get_total_flops() + vsd)


def matrix_speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Operations per second of a square matrix product on the device."""
    side = _SIDE.get(device.type, 4096)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    _ = a @ b
    wait()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        _ = a @ b
        wait()
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - started)


def cost_of(model: FlowStrategy, settings: TrainSettings, device: torch.device, processes: int) -> Cost:
    """The whole training's, every crop taken as the largest."""
    operations = operations_of_a_picture(model, settings) * settings.steps * settings.batch
    return Cost(operations, matrix_speed(device, frozen_dtype(settings)), processes)
