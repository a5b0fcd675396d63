"""The training loop: one process or many (accelerate), resumable at any step, logged."""

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..errors import OutputError, SettingError, TrainingError
from ..files import find_pictures
from ..model.attention import trainable_kernels
from ..model.precision import half_is_fast
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources
from .checkpoint import checkpoints, load_checkpoint, remove_leftovers, save_checkpoint
from .data import PairDataset, usable
from .losses.adversarial import Discriminator, PatchCritic, diff_augment, discriminator_loss, generator_loss
from .losses.perceptual import PerceptualLoss
from .networks import load_discriminator, load_lpips
from .settings import TrainSettings, changed
from .sharding import average_gradients, by_kind, clip_gradients, fill, fill_optimizer, optimizer_state, shard, whole
from .strategies.choose import load_strategy
from .strategies.lora import REGULARISER
from .strategies.protocol import Distillation, Restored

log = logging.getLogger("op4ksr")

LOG = "log.jsonl"


class Trainer:
    """One training in one folder, new or resumed.

    The folder gets `checkpoints/`, `log.jsonl` (a line per step) and `tensorboard/`. Raises SettingError, WeightsError,
    OutputError or TrainingError, all before any work but for a loss that is not a number and a full disk. Several
    processes each hold the whole model (DDP), or with `shard` a part of the transformer (FSDP2); a run may change
    between the two.
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
    ):
        try:
            from accelerate import Accelerator, DistributedType
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingError(f"Training needs more packages ({error}): pip install 'op4ksr[cli,train]'.") from error
        self._new_writer = SummaryWriter
        self.settings, self.run_folder = settings, run
        self.save_every, self.picture_every = save_every, picture_every
        processes = _processes()
        self.accumulation = _accumulation(settings, processes)
        self.accelerator = Accelerator(
            mixed_precision=settings.precision, gradient_accumulation_steps=self.accumulation, cpu=cpu
        )
        kind = self.accelerator.distributed_type
        if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise SettingError(f"{kind} is not supported: launch with plain multi-GPU settings, and --shard for FSDP.")
        self.sharded = shard
        if shard and processes == 1:
            raise SettingError("--shard shares the transformer out over processes: launch with two or more.")
        if settings.precision == "bf16" and not half_is_fast(self.accelerator.device):
            log.warning("This CPU emulates bfloat16, a hundred times slower than float32: --precision no is for it.")
        self.is_main = self.accelerator.is_main_process
        self._claim()
        try:
            self._prepare(sources, inputs, workers)
        except BaseException:
            self.close()
            self._unclaim()
            raise

    def _unclaim(self) -> None:
        """A training that was refused leaves nothing behind."""
        if self.is_main and self._made:
            (self.run_folder / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.run_folder.rmdir()

    def _claim(self) -> None:
        """One training per folder."""
        from filelock import FileLock, Timeout

        self._lock = None
        if not self.is_main:
            return
        try:
            self._made = not self.run_folder.exists()
            self.run_folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.run_folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:  # before OSError, which it is one of
            raise SettingError(f"Another training works in {self.run_folder}. Give another folder with -o.") from None
        except OSError as error:
            raise OutputError(f"Nothing can be written into {self.run_folder}: {error.strerror or error}.") from error

    def close(self) -> None:
        """Lets go of the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if hasattr(self, "_writer"):
            self._writer.close()
        self.accelerator.end_training()

    def _prepare(self, sources: Sources | UNetSources, inputs: Sequence[str | Path], workers: int) -> None:
        settings = self.settings
        state = self._resume_from()
        self.step = state["step"] if state else 0
        paths = usable([found.path for found in find_pictures(inputs)], settings.least_crop or settings.crop)
        self.data = PairDataset(
            paths,
            settings.crop,
            settings.scale,
            settings.degradation,
            settings.seed,
            settings.steps * settings.batch,
            settings.least_crop,
            settings.captions,
        )
        perceptual = None
        if settings.losses.lpips:
            network = load_lpips(settings.lpips_weights)
            perceptual = PerceptualLoss(network, settings.lpips_window, draw=settings.lpips_draw)
        torch.manual_seed(settings.seed)  # the heads begin by chance
        critic = _critic_of(settings) if settings.losses.adversarial else None
        model: Any = load_strategy(sources, settings, self.sharded)
        if self.sharded:
            shard(model.shardable, self.accelerator.device)
        self.trainable, self.regulariser = model.trainable(), {}
        if model.distillation is not None:
            self.regulariser = model.distillation.weights()
        optimizer = _adamw(self.trainable, settings, settings.learning_rate)
        self.regulariser_optimizer = _adamw(self.regulariser, settings, settings.regulariser_learning_rate)
        if state:
            _fill(self.trainable, state["trainable"])
            fill_optimizer(optimizer, self.trainable, state["optimizer"])
            _fill(self.regulariser, state["regulariser"])
            fill_optimizer(self.regulariser_optimizer, self.regulariser, state["regulariser_optimizer"])
        if self.sharded:
            self.model, self.optimizer = model.to(self.accelerator.device), self.accelerator.prepare(optimizer)
        else:
            # The regulariser's gradients come from passes of their own: they are averaged here, not by the wrapper.
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(self.regulariser))
            self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.perceptual = perceptual.to(self.accelerator.device) if perceptual else None
        self.critic = self.critic_optimizer = None
        if critic is not None:
            heads = {name: p for name, p in critic.named_parameters() if p.requires_grad}
            critic_optimizer = _adamw(heads, settings, settings.gan_learning_rate)
            if state:
                critic.heads.load_state_dict(state["critic"])
                critic_optimizer.load_state_dict(state["critic_optimizer"])
            self.critic, self.critic_optimizer = self.accelerator.prepare(critic, critic_optimizer)
        left = range(self.step * settings.batch, settings.steps * settings.batch)
        loader = DataLoader(self.data, settings.per_device, sampler=left, num_workers=workers)  # type: ignore[arg-type]
        self.loader = self.accelerator.prepare(loader)
        self._check_space()
        if self.is_main:
            self._rewind_log()

    def _check_space(self) -> None:
        """A checkpoint that would not fit is said before the first step. Raises OutputError."""
        learned = [*self.trainable.values(), *self.regulariser.values()]
        needed = 20 * sum(p.numel() for p in learned)  # weights, two moments, and the adapters twice; float32
        free = shutil.disk_usage(self.run_folder).free if self.is_main else needed
        if free < needed:
            raise OutputError(
                f"A checkpoint takes about {needed / 1e6:.0f} MB and {self.run_folder} has {free / 1e6:.0f} MB left. "
                "Make room, or give a folder on another disk with -o."
            )

    def _resume_from(self) -> dict[str, Any] | None:
        """The last checkpoint's state. Raises SettingError where it belongs to other settings."""
        if self.is_main:
            remove_leftovers(self.run_folder)
        found = checkpoints(self.run_folder)
        if not found:
            return None
        state, settings = load_checkpoint(found[-1])
        differences = changed(settings, self.settings)
        if differences:
            raise SettingError(
                f"{self.run_folder} holds a training with other settings ({'; '.join(differences)}). Go on with its "
                "own, or give another folder with -o."
            )
        log.info("going on from %s", found[-1])
        return state

    def _rewind_log(self) -> None:
        """Drops lines of steps that are done again."""
        path = self.run_folder / LOG
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= self.step]
            path.write_text("".join(line + "\n" for line in lines))

    def run(self, minutes: float = math.inf, stop_after: int | None = None) -> int:
        """Trains to the last step, to `stop_after`, or until the minutes are used up; returns the step reached.

        Raises TrainingError where a loss or the gradient is not a number: the last good checkpoint stays.
        """
        with trainable_kernels():
            return self._run(time.time() + 60 * minutes, min(self.settings.steps, stop_after or self.settings.steps))

    def _run(self, end: float, last: int) -> int:
        logs: list[dict[str, Tensor]] = []
        if self.step < last:
            for batch in self.loader:
                logs.append(self._advance(batch))
                if not self.accelerator.sync_gradients:
                    continue
                self.step += 1
                self._tell(logs)
                logs = []
                out_of_time = self._agree(time.time() >= end)
                if self.step % self.save_every == 0 or self.step == last or out_of_time:
                    self.save()
                if self.step == last or out_of_time:
                    break
        return self.step

    def _agree(self, here: bool) -> bool:
        """What the first process says, in all of them."""
        if self.accelerator.num_processes == 1:
            return here
        from accelerate.utils import broadcast

        flag = torch.tensor([int(here)], device=self.accelerator.device)
        return bool(broadcast(flag).item())

    def _advance(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of one micro-batch, and an optimizer step where they are complete. Losses by name."""
        accelerator, settings = self.accelerator, self.settings
        models = [self.model] + ([self.critic] if self.critic is not None else [])
        with accelerator.accumulate(*models):
            with accelerator.autocast():
                outputs = self.model(*accelerator.unwrap_model(self.model).inputs(batch))
            losses, shown = accelerator.unwrap_model(self.model).losses(batch, outputs)
            if self.perceptual is not None and shown is not None:
                losses["lpips"] = self.perceptual(shown, batch["hr"], int(batch["seed"][0]))
            if self.critic is not None and shown is not None:
                losses["adversarial"] = self._fool(shown, batch["seed"])
            if self.regulariser:
                with accelerator.autocast():
                    losses["vsd"] = self._distillation().loss(outputs, batch["seed"])
            weights = asdict(settings.losses)
            if settings.gan_adaptive and "adversarial" in losses:
                weights["adversarial"] *= self._adaptive(losses, weights)
            total = torch.stack([weights[name] * value.float() for name, value in losses.items()]).sum()
            self._check(losses)
            accelerator.backward(total)
            norm = None
            if accelerator.sync_gradients:
                own = list(self.trainable.values())
                if self.sharded:
                    average_gradients(own, self._average)
                norm = clip_gradients(own, settings.clip)
                if not math.isfinite(norm):
                    raise self._failure("the gradient", norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.critic is not None and shown is not None:
                losses["critic"] = self._teach(shown.detach(), batch)
            if self.regulariser:
                losses["regulariser"] = self._regularise(outputs, batch["seed"])
        told = {name: value.detach().float() for name, value in losses.items()} | {"total": total.detach()}
        return told | ({"gradient": torch.as_tensor(norm)} if norm is not None else {})

    def _adaptive(self, losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        """How much harder the other losses pull at the decoder's last layer than the adversarial one does, at most
        10,000 (Esser et al. 2021, VQGAN, eq. 7)."""
        last = self.accelerator.unwrap_model(self.model).last_layer
        others = torch.stack([weights[k] * v.float() for k, v in losses.items() if k != "adversarial"]).sum()
        pulls = [torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (others, losses["adversarial"])]
        return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, 1e4).detach()

    def _fool(self, shown: Tensor, seeds: Tensor) -> Tensor:
        critic = self.accelerator.unwrap_model(self.critic)
        critic.heads.requires_grad_(False)  # this pass teaches the generator alone
        loss = generator_loss(critic(diff_augment(shown, seeds.tolist())), self.settings.gan)
        critic.heads.requires_grad_(True)
        return loss

    def _teach(self, shown: Tensor, batch: dict[str, Tensor]) -> Tensor:
        assert self.critic is not None and self.critic_optimizer is not None
        seeds = batch["seed"].tolist()
        both = torch.cat([diff_augment(batch["hr"], seeds), diff_augment(shown, seeds)])
        logits = [level.chunk(2) for level in self.critic(both)]
        loss = discriminator_loss([real for real, _ in logits], [fake for _, fake in logits], self.settings.gan)
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            heads = [p for p in self.critic.parameters() if p.requires_grad]
            torch.nn.utils.clip_grad_norm_(heads, self.settings.clip)
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return loss

    def _distillation(self) -> Distillation:
        return self.accelerator.unwrap_model(self.model).distillation

    def _regularise(self, restored: Restored, seeds: Tensor) -> Tensor:
        """The regulariser follows what the model makes now."""
        distillation = self._distillation()
        with distillation.active(REGULARISER):
            with self.accelerator.autocast():
                loss = distillation.regulariser_loss(restored, seeds)
            (loss / self.accumulation).backward()
        if self.accelerator.sync_gradients:
            average_gradients(list(self.regulariser.values()), self._average)
            clip_gradients(list(self.regulariser.values()), self.settings.clip)
            self.regulariser_optimizer.step()
            self.regulariser_optimizer.zero_grad()
        return loss

    def _average(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, "mean")

    def _check(self, losses: dict[str, Tensor]) -> None:
        """Stops all processes where one has a loss that is not a number; the first of them says which."""
        values = torch.stack([value.detach().float() for value in losses.values()])[None]
        if self.accelerator.num_processes > 1:
            values = self.accelerator.gather(values)
        bad = (~values.isfinite()).nonzero().tolist()
        if bad:
            process, place = bad[0]
            where = f" in process {process}" if len(values) > 1 else ""
            raise self._failure(f"the {list(losses)[place]} loss{where}", float(values[process, place]))

    def _failure(self, what: str, value: float) -> TrainingError:
        found = checkpoints(self.run_folder)
        left = f"The last good checkpoint is {found[-1]}." if found else "No checkpoint was written yet."
        return TrainingError(
            f"Step {self.step + 1}: {what} is {value}. {left} Lower the learning rate, or look at the data."
        )

    def _tell(self, logs: Sequence[dict[str, Tensor]]) -> None:
        """Means over micro-batches and processes, to the log and to TensorBoard."""
        mean = {name: torch.stack([one[name].cpu() for one in logs if name in one]).mean() for name in logs[-1]}
        if self.accelerator.num_processes > 1:
            values = torch.stack(list(mean.values())).to(self.accelerator.device)
            values = self.accelerator.reduce(values, "mean")
            mean = dict(zip(mean, values.cpu(), strict=True))
        if self.is_main:
            numbers = {name: float(value) for name, value in mean.items()}
            with (self.run_folder / LOG).open("a") as file:
                file.write(json.dumps({"step": self.step} | numbers) + "\n")
            for name, value in numbers.items():
                self._tensorboard().add_scalar(name, value, self.step)
        if self.step % self.picture_every == 0 and (self.is_main or self.sharded):  # sharded, all run the model
            self._show()

    def _tensorboard(self) -> Any:
        if not hasattr(self, "_writer"):
            self._writer = self._new_writer(str(self.run_folder / "tensorboard"), purge_step=self.step)
        return self._writer

    @torch.no_grad()
    def _show(self) -> None:
        """The first sample restored: pictures, the periodicity score and the inspector's report."""
        from ..lattice.inspector import inspect
        from ..lattice.report import draw_report

        model, pair = self.accelerator.unwrap_model(self.model), self.data[0]
        device = self.accelerator.device
        batch = {name: torch.as_tensor(pair[name])[None].to(device) for name in pair}
        with self.accelerator.autocast():
            outputs = model(*model.inputs(batch))
        made = model.losses(batch, outputs)[1]
        if not self.is_main or made is None:
            return
        writer = self._tensorboard()
        shown = made[0].clamp(0, 1).cpu()
        lr = torch.nn.functional.interpolate(batch["lr"], size=shown.shape[-2:])[0].cpu()
        writer.add_image("LR, restored, HR", torch.cat([lr, shown, batch["hr"][0].cpu()], 2), self.step)
        if min(shown.shape[-2:]) >= 64:
            found = inspect(shown)
            writer.add_scalar("periodicity score", found.score, self.step)
            writer.add_image("spectrum", draw_report(shown, found), self.step)

    def save(self) -> Path | None:
        """Writes a checkpoint of the step reached; the first process does."""
        if not (self.is_main or self.sharded):
            return None
        state: dict[str, Any] = {"step": self.step}
        state["trainable"] = {name: whole(p) for name, p in self.trainable.items()}
        state["optimizer"] = optimizer_state(self.optimizer, self.trainable)
        state["regulariser"] = {name: whole(p) for name, p in self.regulariser.items()}
        state["regulariser_optimizer"] = optimizer_state(self.regulariser_optimizer, self.regulariser)
        write_adapters = self.accelerator.unwrap_model(self.model).export()
        if not self.is_main:
            return None
        if self.critic is not None and self.critic_optimizer is not None:
            state["critic"] = self.accelerator.unwrap_model(self.critic).heads.state_dict()
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
        return save_checkpoint(self.run_folder, self.step, state, self.settings, write_adapters)


def _critic_of(settings: TrainSettings) -> Discriminator | PatchCritic:
    return PatchCritic() if settings.critic == "patch" else load_discriminator(settings.features)


def _adamw(parameters: dict[str, torch.nn.Parameter], settings: TrainSettings, rate: float) -> torch.optim.AdamW:
    groups = by_kind(list(parameters.values())) or [[]]  # which may be empty
    return torch.optim.AdamW([{"params": group} for group in groups], lr=rate, weight_decay=settings.weight_decay)


def _fill(parameters: dict[str, torch.nn.Parameter], values: dict[str, Tensor]) -> None:
    """Copies saved weights in; both must name the same."""
    if parameters.keys() != values.keys():
        odd = sorted(parameters.keys() ^ values.keys())
        raise SettingError(f"The checkpoint is of another model: {', '.join(odd[:3])} ... ({len(odd)} tensors differ).")
    for name, parameter in parameters.items():
        fill(parameter, values[name])


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _accumulation(settings: TrainSettings, processes: int) -> int:
    """Micro-batches per optimizer step. Raises SettingError where the batch cannot be shared out evenly."""
    at_once = settings.per_device * processes
    if settings.batch % at_once:
        raise SettingError(
            f"A batch of {settings.batch} cannot be shared evenly over {processes} processes with "
            f"{settings.per_device} pictures at once. Choose --batch as a multiple of --per-device times the processes."
        )
    return settings.batch // at_once


def _step_of(line: str) -> float:
    """The step of a log line; a line that a kill cut short counts as past."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf
