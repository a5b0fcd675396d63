"""The one training loop of the recipe: processor-time budget, checkpoints that survive a kill, averaged weights."""

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .muon import Muon

EVERY_SECONDS = 180.0
"""Seconds between two checkpoints, each with the figures of the held-out photographs."""

Figures = dict[str, float]


class Loop:
    """Trains `module` in place and keeps an exponential average of its weights.

    Parameters of `muon` dimensions (4: convolutions, 2: linear layers) are trained by Muon, the others by AdamW.

    The learning rate follows the share of the budget that is used (a warm-up, then a cosine), counted in processor
    minutes of this process, so that a busy machine changes nothing. `<run>/<stage>.pt` is written every three minutes
    and resumed from; one made with other settings is refused by the name of the setting. The averaged weights with the
    best score so far are in `<run>/<stage>_best.pt`.
    """

    def __init__(
        self,
        stage: str,
        run: Path,
        module: nn.Module,
        minutes: float,
        rate: float,
        settings: dict[str, Any],
        decay: float = 0.998,
        betas: tuple[float, float] = (0.9, 0.99),
        extra: dict[str, Any] | None = None,
        muon: int = 0,
    ):
        run.mkdir(parents=True, exist_ok=True)
        self.stage, self.run, self.module, self.minutes, self.rate = stage, run, module, minutes, rate
        self.settings, self.decay, self.extra = settings, decay, extra or {}
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        kernels = [p for p in self.parameters if p.ndim == muon]
        others = [p for p in self.parameters if p.ndim != muon]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "optimizer": torch.optim.AdamW(others, rate, betas=betas, weight_decay=1e-4)
        }
        if kernels:
            self.optimizers["muon"] = Muon(kernels, rate)
        self.step, self.used, self.best = 0, 0.0, -math.inf
        self.path = run / f"{stage}.pt"
        if self.path.exists():
            self._resume()

    def _parts(self) -> dict[str, Any]:
        return {"module": self.module, "average": self.average, **self.optimizers, **self.extra}

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        for name, value in json.loads(state["settings"]).items():
            if self.settings.get(name) != value:
                raise SystemExit(
                    f"{self.path} was made with {name} = {value!r}, not {self.settings.get(name)!r}: "
                    "use the same setting, or another --run."
                )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.used, self.best = state["step"], state["used"], state["best"]

    def save(self) -> None:
        state = {"step": self.step, "used": self.used, "best": self.best, "settings": json.dumps(self.settings)}
        write(self.path, state | {name: part.state_dict() for name, part in self._parts().items()})

    def train(
        self, loss_of: Callable[[random.Random, int], Tensor], figures_of: Callable[[nn.Module], Figures]
    ) -> None:
        """Steps until the budget is used; `figures_of(average)` gives the held-out figures, "score" among them."""
        seconds = 60 * self.minutes
        started, used_before, saved, total, count = time.process_time(), self.used, time.time(), 0.0, 0
        print(f"{self.stage} from step {self.step}, {self.used / 60:.1f} of {self.minutes:g} minutes", flush=True)
        while self.used < seconds:
            share = self.used / seconds
            decay = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share))
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = self.rate * min(1.0, (self.step + 1) / 100) * decay
            loss = loss_of(random.Random(f"{self.stage} {self.step}"), self.step)
            self.module.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.parameters, 1.0))
            if not math.isfinite(norm):
                raise SystemExit(
                    f"{self.stage} step {self.step}: the gradient is {norm}; {self.path} is the last good state."
                )
            for optimizer in self.optimizers.values():
                optimizer.step()
            self.step += 1
            average_into(self.average, self.module, min(self.decay, self.step / (self.step + 10)))
            total, count = total + loss.item(), count + 1
            self.used = used_before + time.process_time() - started
            if time.time() - saved > EVERY_SECONDS or self.used >= seconds:
                figures = figures_of(self.average)
                if figures["score"] > self.best:
                    self.best = figures["score"]
                    write(self.run / f"{self.stage}_best.pt", self.average.state_dict())
                self.save()
                told = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
                print(
                    f"{self.stage} {self.step}  {self.used / 60:.1f} min  loss {total / count:.5f}  {told}", flush=True
                )
                saved, total, count = time.time(), 0.0, 0


def average_into(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of every weight."""
    with torch.no_grad():
        for a, b in zip(average.parameters(), module.parameters(), strict=True):
            a.lerp_(b, 1 - decay)


def write(path: Path, state: Any) -> None:
    """A kill at any moment leaves the old file or the new one."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
