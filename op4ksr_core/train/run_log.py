"""What a run says of itself: `log.jsonl`, a line per step, and TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import SettingError

LOG = "log.jsonl"


def summary_writer() -> Any:
    """TensorBoard's writer. Raises SettingError where the training packages are missing."""
    try:
        import accelerate  # noqa: F401
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingError(f"Training needs more packages ({error}): pip install 'op4ksr[cli,train]'.") from error
    return SummaryWriter


class RunLog:
    """The log of the run in `folder`, from the step that it resumes at; lines of steps that are done again go."""

    def __init__(self, folder: Path, step: int):
        self.folder = folder
        self.step = step
        self._writer: Any = None
        path = folder / LOG
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            path.write_text("".join(line + "\n" for line in lines))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One step's numbers, by name."""
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps({"step": step} | numbers) + "\n")
        for name, value in numbers.items():
            self._tensorboard().add_scalar(name, value, step)

    def show(self, step: int, lr: Tensor, restored: Tensor, hr: Tensor, name: str = "") -> None:
        """One sample's pictures (3, H, W) in [0, 1], beside each other, the periodicity score, and the spectrum; a name
        goes before theirs."""
        import torch

        from ..lattice.inspector import inspect
        from ..lattice.report import draw_report

        before = f"{name}: " if name else ""
        writer = self._tensorboard()
        writer.add_image(f"{before}LR, restored, HR", torch.cat([lr, restored, hr], 2), step)
        if min(restored.shape[-2:]) >= 64:
            found = inspect(restored)
            writer.add_scalar(f"{before}periodicity score", found.score, step)
            writer.add_image(f"{before}spectrum", draw_report(restored, found), step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _tensorboard(self) -> Any:
        if self._writer is None:
            self._writer = summary_writer()(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self._writer


def _step_of(line: str) -> float:
    """The step of a log line; a line that a kill cut short counts as past."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf
