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

from op4ksr_core.files import write_atomically

from .muon import Muon

EVERY_SECONDS = {"cpu": 180.0, "cuda": 20.0}
"""Seconds between two checkpoints, each with the figures of the held-out photographs."""

CHECKED = 10
"""Steps between two looks at the gradient: each makes a GPU wait."""

Figures = dict[str, float]


class Loop:
    """Trains `module` in place and keeps an exponential average of its weights.

    Parameters of `muon` dimensions (4: convolutions, 2: linear layers) are trained by Muon, the others by AdamW.

    The learning rate follows the share of the budget that is used (a warm-up, then a cosine): on a CPU in processor
    minutes of this process, so that a busy machine changes nothing, on a GPU in minutes. `<run>/<stage>.pt` is written
    every EVERY_SECONDS and resumed from; one made with other settings is refused by the name of the setting. The
    averaged weights with the best score so far are in `<run>/<stage>_best.pt`.
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
        muon: tuple[int, ...] = (),
    ):
        run.mkdir(parents=True, exist_ok=True)
        self.stage, self.run, self.module, self.minutes, self.rate = stage, run, module, minutes, rate
        self.settings, self.decay, self.extra = settings, decay, extra or {}
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        kernels = [p for p in self.parameters if p.ndim in muon]
        others = [p for p in self.parameters if p.ndim not in muon]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "optimizer": torch.optim.AdamW(
                others, rate, betas=betas, weight_decay=1e-4, fused=self.device.type == "cuda"
            )
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
        state = read(self.path)
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
        seconds, clock = 60 * self.minutes, time.time if self.device.type == "cuda" else time.process_time
        started, used_before, saved, losses = clock(), self.used, time.time(), []
        print(f"{self.stage} from step {self.step}, {self.used / 60:.1f} of {self.minutes:g} minutes", flush=True)
        if self.step == 0:
            print(f"{self.stage} before  {_told(figures_of(self.average))}", flush=True)
            started = clock()
        while self.used < seconds:
            share = self.used / seconds
            decay = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share))
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = self.rate * min(1.0, (self.step + 1) / 100) * decay
            loss = loss_of(random.Random(f"{self.stage} {self.step}"), self.step)
            self.module.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.used = used_before + clock() - started
            due = time.time() - saved > EVERY_SECONDS[self.device.type] or self.used >= seconds
            if (due or self.step % CHECKED == 0) and not math.isfinite(norm):
                raise SystemExit(
                    f"{self.stage} step {self.step}: the gradient is {float(norm)}; {self.path} is the last good state."
                )
            for optimizer in self.optimizers.values():
                optimizer.step()
            self.step += 1
            average_into(self.average, self.module, min(self.decay, self.step / (self.step + 10)))
            losses.append(loss.detach())
            if due:
                figures = figures_of(self.average)
                if figures["score"] > self.best:
                    self.best = figures["score"]
                    write(self.run / f"{self.stage}_best.pt", self.average.state_dict())
                self.save()
                loss = torch.stack(losses).mean()
                told = f"{self.used / 60:.1f} min  loss {loss:.5f}  {_told(figures)}"
                print(f"{self.stage} {self.step}  {told}", flush=True)
                saved, losses = time.time(), []


def _told(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in figures.items())


def average_into(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of every weight."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


def write(path: Path, state: Any) -> None:
    """A kill at any moment leaves the old file or the new one."""
    write_atomically(path, lambda file: torch.save(state, file))


def read(path: Path) -> Any:
    """What `write` wrote, on the CPU."""
    return torch.load(path, weights_only=True, map_location="cpu")


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
