"""What a run says of itself: `log.jsonl`, a line per step, TensorBoard, and where it is asked for Weights & Biases."""

import json
import math
import uuid
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import SettingError

LOG = "log.jsonl"
_WANDB_ID = "wandb_id.txt"


def summary_writer() -> Any:
    """TensorBoard's writer. Raises SettingError where the training packages are missing."""
    try:
        import accelerate  # noqa: F401
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingError(f"Training needs more packages ({error}): pip install 'op4ksr[cli,train]'.") from error
    return SummaryWriter


def wandb_module() -> Any:
    """Raises SettingError where wandb is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise SettingError(f"--wandb needs wandb ({error}): pip install 'op4ksr[wandb]'.") from error
    return wandb


class Wandb:
    """A run of Weights & Biases with TensorBoard's methods; a run that is resumed goes on under its number."""

    def __init__(self, project: str, folder: Path, settings: dict[str, Any]):
        self._wandb = wandb_module()
        number = folder / _WANDB_ID
        if not number.exists():
            number.write_text(uuid.uuid4().hex, encoding="utf-8")
        self._run = self._wandb.init(
            project=project,
            name=folder.name,
            dir=str(folder),
            id=number.read_text(encoding="utf-8"),
            resume="allow",
            config=settings,
        )

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """A number of a step."""
        self._run.log({name: value}, step=step)

    def add_image(self, name: str, picture: Tensor, step: int) -> None:
        """A picture (3, H, W) in [0, 1] of a step."""
        pixels = (picture * 255).round().byte().movedim(0, -1).numpy()
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class RunLog:
    """The log of the run in `folder`, from the step that it resumes at; lines of steps that are done again go.

    With a `project` the same goes to Weights & Biases, under these `settings`.
    """

    def __init__(self, folder: Path, step: int, project: str = "", settings: dict[str, Any] | None = None):
        self.folder = folder
        self.step = step
        self.project = project
        self.settings = settings or {}
        self._open: list[Any] = []
        path = folder / LOG
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            path.write_text("".join(line + "\n" for line in lines))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One step's numbers, by name."""
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps({"step": step} | numbers) + "\n")
        for writer in self._writers():
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

    def show(self, step: int, lr: Tensor, restored: Tensor, hr: Tensor, name: str = "") -> None:
        """One sample's pictures (3, H, W) in [0, 1], beside each other, the periodicity score, and the spectrum; a name
        goes before theirs."""
        import torch

        from ..lattice.inspector import inspect
        from ..lattice.report import draw_report

        before = f"{name}: " if name else ""
        found = inspect(restored) if min(restored.shape[-2:]) >= 64 else None
        for writer in self._writers():
            writer.add_image(f"{before}LR, restored, HR", torch.cat([lr, restored, hr], 2), step)
            if found is not None:
                writer.add_scalar(f"{before}periodicity score", found.score, step)
                writer.add_image(f"{before}spectrum", draw_report(restored, found), step)

    def close(self) -> None:
        for writer in self._open:
            writer.close()

    def _writers(self) -> list[Any]:
        """TensorBoard's and what else was asked for, opened with the first number."""
        if not self._open:
            self._open.append(summary_writer()(str(self.folder / "tensorboard"), purge_step=self.step + 1))
            if self.project:
                self._open.append(Wandb(self.project, self.folder, self.settings))
        return self._open


def _step_of(line: str) -> float:
    """The step of a log line; a line that a kill cut short counts as past."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf
