"""The training loop: one process or many (accelerate), resumable at any step, logged."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import SettingError, TrainingError
from ..model.attention import trainable_kernels
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources
from .card import CARD, model_card
from .checkpoint import checkpoints, load_checkpoint, remove_leftovers, save_checkpoint
from .data import PairDataset
from .learned import optimizer_class
from .learner import Learner, NotFinite
from .listing import Pictures, list_pictures, usable_pictures
from .origin import check_origin, note_origin, origin_of
from .pace import PACE, Pace, progress_line
from .processes import as_the_first_says, by_the_first, is_slower_in_half, make_accelerator, mean_losses
from .run_folder import RunFolder
from .run_log import RunLog, summary_writer, wandb_module
from .settings import MAY_CHANGE, TrainSettings, changed
from .validation import HeldOut, Validation

log = logging.getLogger("op4ksr")

_MANY = 1000
"""Pictures whose headers take long enough to be told of."""

_SHOWN = 4
"""Held-out crops whose pictures are logged."""


class Trainer:
    """One training in one folder, new or resumed.

    The folder gets `checkpoints/`, `log.jsonl` (a line per step) and `tensorboard/`. Raises SettingError, WeightsError,
    OutputError or TrainingError, all before any work but for a loss that is not a number and a full disk. Several
    processes each hold the whole model (DDP), or with `shard` a part of the transformer (FSDP2); a run may change
    between the two. `say` gets a line of progress every `log_every` steps, in the first process. With `held_out`
    photographs are judged as it goes on, and `best/` holds the best adapters. Each checkpoint has a model card, with
    the `licence`. `pairs` is the folder of the small pictures, where they are not made by the degradation.
    `wandb` is a project of Weights & Biases. `report` is called with (step, steps) after each, in the first process.
    """

    def __init__(
        self,
        settings: TrainSettings,
        sources: Sources | UNetSources,
        inputs: Sequence[str | Path],
        run: Path,
        workers: int = 0,
        save_every: int = 100,
        picture_every: int = 100,
        cpu: bool = False,
        shard: bool = False,
        log_every: int = 10,
        say: Callable[[str], None] | None = None,
        held_out: HeldOut | None = None,
        licence: str = "",
        pairs: str | Path | None = None,
        wandb: str = "",
        report: Callable[[int, int], None] | None = None,
    ):
        summary_writer()  # what is missing is said first
        optimizer_class(settings.optimizer)
        if wandb:
            wandb_module()
        self.settings = settings
        self.run_folder = run
        self.save_every = save_every
        self.picture_every = picture_every
        self.log_every = log_every
        self.say = say
        self.held_out = held_out
        self.licence = licence
        self.pairs = pairs
        self.wandb = wandb
        self.report = report
        self.sharded = shard
        self.accelerator = make_accelerator(settings, cpu, shard)
        if is_slower_in_half(settings, self.accelerator):
            log.warning("%s is slower than float32 here: --precision no is for that.", settings.precision)
        self.is_main = self.accelerator.is_main_process
        self.log: RunLog | None = None
        self.folder = RunFolder(run, self.is_main)
        self.folder.claim()
        try:
            self._prepare(sources, inputs, workers)
        except BaseException:
            self.close()
            self.folder.discard()
            raise

    def close(self) -> None:
        """Lets go of the folder."""
        self.folder.release()
        if self.log is not None:
            self.log.close()
        self.accelerator.end_training()

    def _prepare(self, sources: Sources | UNetSources, inputs: Sequence[str | Path], workers: int) -> None:
        settings = self.settings
        state = self._resume_from()
        self.step = state["step"] if state else 0
        self.data = self._samples(inputs, self.pairs, settings.steps * settings.batch)
        self.validation = None
        if self.held_out is not None:
            crops = self._samples(self.held_out.inputs, self.held_out.pairs, self.held_out.count)
            self.validation = Validation(self.held_out, crops, self.data.paths, self.run_folder, self.step)
        self.sources = sources
        self.figures: dict[str, float] = {}
        self.origin = origin = by_the_first(
            self.accelerator, lambda: origin_of(self.data.paths, sources, self.data.small)
        )
        if state:
            check_origin(self.run_folder, origin)
        self.learner = Learner(settings, sources, self.accelerator, self.sharded, state)
        left = range(self.step * settings.batch, settings.steps * settings.batch)
        loader = DataLoader(self.data, settings.per_device, sampler=left, num_workers=workers)  # type: ignore[arg-type]
        self.loader = self.accelerator.prepare(loader)
        self.folder.check_room(self.learner.size())
        if self.is_main:
            self.log = RunLog(self.run_folder, self.step, self.wandb, settings.as_dict())
            note_origin(self.run_folder, origin, self.step, self.changes)

    def _samples(self, inputs: Sequence[str | Path], pairs: str | Path | None, count: int) -> PairDataset:
        """So many samples of photographs. The first process looks at their headers, for all."""
        settings = self.settings
        found = by_the_first(self.accelerator, lambda: self._usable(inputs, pairs))
        return PairDataset(
            found.large,
            settings.crop,
            settings.scale,
            settings.degradation,
            settings.seed,
            count,
            settings.least_crop,
            settings.captions,
            found.small,
        )

    def _usable(self, inputs: Sequence[str | Path], pairs: str | Path | None) -> Pictures:
        """What can be trained on; a long list says how far it is."""
        settings, say = self.settings, self.say
        listed = list_pictures(inputs, pairs, settings.scale)
        if listed.small and settings.degradation == "none":
            raise SettingError(f"The stage {settings.stage} learns from clean pictures: leave out the pairs.")
        if say is None:
            return usable_pictures(listed, settings.least_crop or settings.crop, settings.scale)
        if len(listed.large) >= _MANY:
            say(f"looking at the headers of {len(listed.large)} pictures")
        return usable_pictures(
            listed,
            settings.least_crop or settings.crop,
            settings.scale,
            lambda done, count: say(f"looked at {done} of {count} headers"),
        )

    def _resume_from(self) -> dict[str, Any] | None:
        """The last checkpoint's state. Raises SettingError where it belongs to other settings."""
        if self.is_main:
            remove_leftovers(self.run_folder)
        self.changes: list[str] = []
        found = checkpoints(self.run_folder)
        if not found:
            return None
        state, settings = load_checkpoint(found[-1])
        differences = changed(settings, self.settings)
        if differences:
            raise SettingError(
                f"{self.run_folder} holds a training with other settings ({'; '.join(differences)}). Resume it "
                "with its own, or give another folder with -o."
            )
        self.changes = changed(settings, self.settings, MAY_CHANGE)
        log.info("resuming from %s", found[-1])
        if self.changes and self.is_main:
            log.warning("resumed at step %d with other settings: %s", state["step"], "; ".join(self.changes))
        return state

    def run(self, minutes: float = math.inf, stop_after: int | None = None) -> int:
        """Trains to the last step, to `stop_after`, or until the minutes are used up; returns the step reached.

        Raises TrainingError where a loss or the gradient is not a number: the last good checkpoint stays.
        """
        with trainable_kernels():
            return self._run(
                time.monotonic() + 60 * minutes, min(self.settings.steps, stop_after or self.settings.steps)
            )

    def _run(self, end: float, last: int) -> int:
        logs: list[dict[str, Tensor]] = []
        if self.step >= last:
            return self.step
        self.pace = Pace(self.settings.steps, self.settings.batch, self.accelerator.device)
        for batch in self.loader:
            try:
                logs.append(self.learner.advance(batch))
            except NotFinite as error:
                raise self._failure(error) from None
            if not self.accelerator.sync_gradients:
                continue
            self.step += 1
            best = self._report(logs)
            logs = []
            out_of_time = as_the_first_says(self.accelerator, time.monotonic() >= end)
            if self.step % self.save_every == 0 or self.step == last or out_of_time or best:
                checkpoint = self.save()
                if best and checkpoint is not None and self.validation is not None:
                    self.validation.keep(checkpoint, self.step, self._valid())
            if self.step == last or out_of_time:
                break
        return self.step

    def _failure(self, error: NotFinite) -> TrainingError:
        found = checkpoints(self.run_folder)
        left = f"The last good checkpoint is {found[-1]}." if found else "No checkpoint was written yet."
        return TrainingError(f"Step {self.step + 1}: {error}. {left} Lower the learning rate, or look at the data.")

    def _report(self, logs: Sequence[dict[str, Tensor]]) -> bool:
        """Validates, logs, prints and shows; whether this step is the best so far."""
        figures, best = self._validate()
        numbers = mean_losses(self.accelerator, logs) | self.pace.after_step(self.step) | figures
        self.figures = {name: value for name, value in numbers.items() if name not in PACE}
        if self.log is not None:
            self.log.write(self.step, numbers)
            if self.report is not None:
                self.report(self.step, self.settings.steps)
            due = self.step % self.log_every == 0 or self.step == self.settings.steps or bool(figures)
            if self.say is not None and due:
                self.say(progress_line(self.step, self.settings.steps, numbers))
        showing = self.validation is None and self.step % self.picture_every == 0
        if showing and (self.is_main or self.sharded):  # sharded, all run the model
            self._show()
        return best

    def _validate(self) -> tuple[dict[str, float], bool]:
        """(figures of the held-out photographs where they are due, whether they are the best so far)."""
        validation = self.validation
        if validation is None or not validation.is_due(self.step, self.settings.steps):
            return {}, False
        figures: dict[str, float] = {}
        if self.is_main or self.sharded:
            figures, pictures = validation.judge(self.learner.restore_sample)
            for number, shown in enumerate(pictures[:_SHOWN]):
                if self.log is not None:
                    self.log.show(self.step, *shown, name=f"held out {number}")
        return figures, as_the_first_says(self.accelerator, validation.is_best(figures))

    def _valid(self) -> dict[str, float]:
        return {name: value for name, value in self.figures.items() if name.startswith("valid_")}

    def _show(self) -> None:
        """The first sample of the training, as it is restored now."""
        pictures = self.learner.restore_sample(self.data[0])
        if self.log is not None and pictures is not None:
            self.log.show(self.step, *pictures)

    def save(self) -> Path | None:
        """Writes a checkpoint of the step reached: the first process, sharded with the others' parts. None in those."""
        if not (self.is_main or self.sharded):
            return None
        state = {"step": self.step} | self.learner.state()
        write_adapters = self.learner.export()
        data = "real pairs" if self.data.small else f"degradation `{self.settings.degradation}`"
        card = model_card(self.step, self.settings, self.sources, self.origin, self.figures, data, self.licence)

        def write(folder: Path) -> None:
            write_adapters(folder)
            (folder / CARD).write_text(card, encoding="utf-8")

        return save_checkpoint(
            self.run_folder, self.step, state, self.settings, write, together=self.sharded, is_main=self.is_main
        )
