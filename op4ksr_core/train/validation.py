"""Held-out photographs: restored and judged as a training goes on, always the same crops with the same degradation."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import NotMeasurable, SettingError
from ..files import json_text, write_text
from .checkpoint import LEARNED, STATE
from .data import PairDataset

Restore = Callable[[dict[str, Tensor | int]], tuple[Tensor, Tensor, Tensor] | None]
"""(LR enlarged, restored, HR), each (3, H, W) in [0, 1], of a sample."""

BEST, FIGURES = "best", "figures.json"


@dataclass(frozen=True)
class Measure:
    """A figure of a restored picture and its truth, both (1, 3, H, W) in [0, 1]; of two goodnesses the greater is
    better."""

    name: str
    value: Callable[[Tensor, Tensor], float]
    goodness: Callable[[float], float]


@dataclass(frozen=True)
class HeldOut:
    """What is validated. `inputs` and `pairs`: as those of a training. `every`: steps. `count`: crops. `best`: the name
    of the measure whose best checkpoint is kept. Raises SettingError where it is none of the measures."""

    inputs: Sequence[str | Path]
    measures: Sequence[Measure]
    best: str
    every: int = 100
    count: int = 8
    pairs: str | Path | None = None

    def __post_init__(self) -> None:
        names = [measure.name for measure in self.measures]
        if self.best not in names:
            raise SettingError(f"The best checkpoint is kept by a figure that is measured: {', '.join(names)}.")


class Validation:
    """Judges a training in a run's folder. Raises SettingError where a held-out photograph is also trained on."""

    def __init__(self, held_out: HeldOut, data: PairDataset, trained: Sequence[Path], run: Path, step: int):
        both = {path.resolve() for path in trained} & {path.resolve() for path in data.paths}
        if both:
            raise SettingError(
                f"{len(both)} held-out photographs are trained on too: {min(both)}. Take them out of one of the two."
            )
        self.held_out = held_out
        self.data = data
        self.run = run
        self.measure = next(one for one in held_out.measures if one.name == held_out.best)
        self.best = self._read_best(step)

    def is_due(self, step: int, last: int) -> bool:
        """Whether this step is validated: every so many steps, and the last one."""
        return step % self.held_out.every == 0 or step == last

    def judge(self, restore: Restore) -> tuple[dict[str, float], list[tuple[Tensor, Tensor, Tensor]]]:
        """(means over the crops by `valid_NAME`, the pictures). A figure that no crop has is left out."""
        found: dict[str, list[float]] = {measure.name: [] for measure in self.held_out.measures}
        pictures = []
        for number in range(len(self.data)):
            shown = restore(self.data[number])
            if shown is None:
                continue
            pictures.append(shown)
            restored, truth = ((x[None] * 255).round() / 255 for x in shown[1:])
            for measure in self.held_out.measures:
                try:
                    found[measure.name].append(measure.value(restored, truth))
                except NotMeasurable:
                    continue
        means = {f"valid_{name}": float(torch.tensor(values).mean()) for name, values in found.items() if values}
        return means, pictures

    def is_best(self, figures: Mapping[str, float]) -> bool:
        """Whether the named figure is better than at every step before."""
        value = figures.get(f"valid_{self.held_out.best}")
        return value is not None and (self.best is None or self.measure.goodness(value) > self.best)

    def keep(self, checkpoint: Path, step: int, figures: Mapping[str, float]) -> None:
        """Makes a checkpoint the best: its adapters, settings and card, in the run's folder `best`."""
        value = figures[f"valid_{self.held_out.best}"]
        final, part = self.run / BEST, self.run / f".{BEST}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(checkpoint, part, ignore=shutil.ignore_patterns(STATE, LEARNED))
        write_text(part / FIGURES, json_text({"step": step, "by": self.held_out.best, **figures}))
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        self.best = self.measure.goodness(value)

    def _read_best(self, step: int) -> float | None:
        """The best figure so far; none where it is another measure's, or of a step that is done again."""
        try:
            held: Any = json.loads((self.run / BEST / FIGURES).read_text(encoding="utf-8"))
            if held["by"] != self.held_out.best or held["step"] > step:
                return None
            return self.measure.goodness(float(held[f"valid_{self.held_out.best}"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
