"""How fast a training is, what memory it takes, and how long it has to go."""

import time
from collections import deque

import torch

_STEPS = 50
"""Steps that the speed is taken over."""


class Pace:
    """Measures between calls of `after_step`; `batch` pictures a step, `steps` in all."""

    def __init__(self, steps: int, batch: int, device: torch.device):
        self.steps = steps
        self.batch = batch
        self.device = device
        self._times = deque([time.perf_counter()], maxlen=_STEPS + 1)

    def after_step(self, step: int) -> dict[str, float]:
        """images_per_second (mean of the last steps), memory_gb (of this process: a GPU's peak, else what it holds),
        seconds_left."""
        self._times.append(time.perf_counter())
        seconds = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return {
            "images_per_second": self.batch / seconds,
            "memory_gb": self._memory() / 1e9,
            "seconds_left": (self.steps - step) * seconds,
        }

    def _memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import psutil

        return psutil.Process().memory_info().rss


PACE = ("images_per_second", "memory_gb", "seconds_left")
"""The names that `after_step` gives."""


def progress_line(step: int, steps: int, numbers: dict[str, float]) -> str:
    """One line for a reader, of a step's losses and pace."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if name not in PACE)
    minutes, seconds = divmod(round(numbers["seconds_left"]), 60)
    hours, minutes = divmod(minutes, 60)
    pace = f"{numbers['images_per_second']:.3g} images/s, {numbers['memory_gb']:.1f} GB"
    return f"step {step} of {steps}: {losses}; {pace}, {hours}:{minutes:02}:{seconds:02} left"
