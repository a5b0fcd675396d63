"""What learns in a training: the family's step, the losses' networks and every optimizer."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources
from .gan import Gan, adaptive_weight
from .learned import Learned
from .losses.perceptual import PerceptualLoss
from .networks import load_lpips
from .precision import autocast, make_scaler
from .processes import first_not_finite
from .regulariser import Regulariser
from .schedule import rate_factor, set_rate
from .settings import TrainSettings
from .sharding import average_gradients, clip_gradients, shard
from .strategies.choose import load_strategy
from .strategies.protocol import Batch, TrainingStrategy


class NotFinite(Exception):
    """A loss or the gradient is NaN or infinite: (what, its value)."""

    def __init__(self, what: str, value: float):
        super().__init__(f"{what} is {value}")


class Learner:
    """Gradients and optimizer steps of one training, new or from a checkpoint's `state`.

    Raises SettingError and WeightsError where the settings do not fit the model or a loss lacks its network.
    """

    def __init__(
        self,
        settings: TrainSettings,
        sources: Sources | UNetSources,
        accelerator: Any,
        sharded: bool = False,
        state: dict[str, Any] | None = None,
    ):
        self.settings = settings
        self.accelerator = accelerator
        self.sharded = sharded
        self.perceptual = _load_perceptual(settings, accelerator.device) if settings.losses.lpips else None
        self.gan = Gan(settings, accelerator, state) if settings.losses.adversarial else None
        strategy: Any = load_strategy(sources, settings, sharded)
        if sharded:
            shard(strategy.shardable, accelerator.device)
        self.step = state["step"] if state else 0
        self.learned = Learned(strategy.trainable(), settings, settings.learning_rate, settings.ema)
        self.scaler = make_scaler(settings, accelerator.device)
        self.regulariser = None
        if strategy.distillation is not None:
            self.regulariser = Regulariser(strategy.distillation, settings, accelerator)
        if state:
            self._restore(state)
        self.model = self._on_device(strategy)
        self.learned.optimizer = accelerator.prepare(self.learned.optimizer)
        if state:
            self.learned.restore_average(state.get("average", {}))

    def _restore(self, state: dict[str, Any]) -> None:
        self.learned.restore(state["trainable"], state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        if self.regulariser is not None:
            self.regulariser.learned.restore(state["regulariser"], state["regulariser_optimizer"])
            self.regulariser.scaler.load_state_dict(state.get("regulariser_scaler", {}))

    def _on_device(self, strategy: Any) -> Any:
        """The strategy, wrapped for several processes where it is whole in each."""
        if self.sharded:
            return strategy.to(self.accelerator.device)
        if self.regulariser is not None:
            # Its gradients come from passes of their own: they are averaged there, not by the wrapper.
            ours = list(self.regulariser.learned.parameters)
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(strategy, ours)
        return self.accelerator.prepare(strategy)

    @property
    def strategy(self) -> TrainingStrategy:
        """The family's strategy, unwrapped."""
        return self.accelerator.unwrap_model(self.model)

    def size(self) -> int:
        """How many numbers are learned and go into a checkpoint, the critic's left out."""
        second = self.regulariser.learned.values() if self.regulariser is not None else []
        return sum(p.numel() for p in [*self.learned.values(), *second])

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of one micro-batch, and an optimizer step where they are complete. Losses by name, detached.

        Raises NotFinite, in all processes alike.
        """
        accelerator = self.accelerator
        rate = self._set_rates()
        models = [self.model] + ([self.gan.critic] if self.gan is not None else [])
        with accelerator.accumulate(*models):
            with autocast(accelerator, self.settings):
                outputs = self.model(*self.strategy.inputs(batch))
            losses, shown = self._losses(batch, outputs)
            total = self._total(losses)
            found = first_not_finite(accelerator, losses)
            if found:
                raise NotFinite(*found)
            accelerator.backward(self.scaler.scale(total))
            norm = self._step() if accelerator.sync_gradients else None
            self.learned.optimizer.zero_grad()
            if self.gan is not None and shown is not None:
                losses["critic"] = self.gan.critic_step(shown.detach(), batch)
            if self.regulariser is not None:
                losses["regulariser"] = self.regulariser.step(outputs, batch["seed"])
            if accelerator.sync_gradients:
                self.step += 1
                self.learned.follow(self.step)
        logged = {name: value.detach().float() for name, value in losses.items()} | {"total": total.detach()}
        if norm is None:
            return logged
        logged |= {"gradient": torch.as_tensor(norm), "learning_rate": torch.tensor(rate, dtype=torch.float64)}
        return logged | ({"loss_scale": torch.tensor(self.scaler.get_scale())} if self.scaler.is_enabled() else {})

    def _set_rates(self) -> float:
        """Sets the learning rates of this step; returns the trained weights'."""
        settings = self.settings
        factor = rate_factor(settings, self.step)
        set_rate(self.learned.optimizer, factor * settings.learning_rate)
        if self.gan is not None:
            set_rate(self.gan.optimizer, factor * settings.gan_learning_rate)
        if self.regulariser is not None:
            set_rate(self.regulariser.learned.optimizer, factor * settings.regulariser_learning_rate)
        return factor * settings.learning_rate

    def _losses(self, batch: Batch, outputs: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """(losses by name, unweighted; the picture that they see, if there is one)."""
        losses, shown = self.strategy.losses(batch, outputs)
        if self.perceptual is not None and shown is not None:
            losses["lpips"] = self.perceptual(shown, batch["hr"], int(batch["seed"][0]))
        if self.gan is not None and shown is not None:
            losses["adversarial"] = self.gan.generator_loss(shown, batch["seed"])
        if self.regulariser is not None:
            with autocast(self.accelerator, self.settings):
                losses["vsd"] = self.regulariser.distillation.loss(outputs, batch["seed"])
        return losses, shown

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        weights: dict[str, Any] = asdict(self.settings.losses)
        parts = {name: weights[name] * value.float() for name, value in losses.items()}
        last = self.strategy.last_layer
        if self.settings.gan_adaptive and "adversarial" in losses and last is not None:
            others = torch.stack([part for name, part in parts.items() if name != "adversarial"]).sum()
            weight = weights["adversarial"] * adaptive_weight(others, losses["adversarial"], last)
            parts["adversarial"] = weight * losses["adversarial"].float()
        return torch.stack(list(parts.values())).sum()

    def _step(self) -> float:
        """Clips the complete gradient and takes an optimizer step; returns the norm that it had.

        In float16 a gradient that overflows is left out: the norm is 0, and the scale of the loss is halved. Raises
        NotFinite where nothing is left to halve.
        """
        self.scaler.unscale_(self.learned.optimizer)
        norm = self._clip()
        finite = math.isfinite(norm)
        if not finite and self.scaler.get_scale() <= 1:
            raise NotFinite("the gradient", norm)
        self.scaler.step(self.learned.optimizer)
        self.scaler.update()
        return norm if finite else 0.0

    def _clip(self) -> float:
        """Scales the complete gradient; returns the norm it had."""
        own = self.learned.values()
        if self.sharded:
            average_gradients(own, lambda x: self.accelerator.reduce(x, "mean"))
        return clip_gradients(own, self.settings.clip)

    @torch.no_grad()
    def restore_sample(self, sample: dict[str, Tensor | int]) -> tuple[Tensor, Tensor, Tensor] | None:
        """(LR enlarged by repeating px, restored, HR), (3, H, W) on the CPU, of one sample of the dataset.

        None where the stage makes no pictures.
        """
        with self.learned.averaged():
            return self._restored(sample)

    def _restored(self, sample: dict[str, Tensor | int]) -> tuple[Tensor, Tensor, Tensor] | None:
        strategy: Any = self.strategy
        batch = {name: torch.as_tensor(value)[None].to(self.accelerator.device) for name, value in sample.items()}
        with autocast(self.accelerator, self.settings):
            outputs = strategy(*strategy.inputs(batch))
        shown = strategy.losses(batch, outputs)[1]
        if shown is None:
            return None
        restored = shown[0].clamp(0, 1).cpu()
        lr = nn.functional.interpolate(batch["lr"], size=restored.shape[-2:])[0].cpu()
        return lr, restored, batch["hr"][0].cpu()

    def export(self) -> Callable[[Path], None]:
        """What writes the adapters, averaged if so set. Sharded: to be called in all processes at once."""
        with self.learned.averaged():
            return self.strategy.export()

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs for resuming; of sharded tensors the part that is here."""
        state: dict[str, Any] = {"scaler": self.scaler.state_dict(), "average": self.learned.average}
        state["trainable"], state["optimizer"] = self.learned.state()
        if self.regulariser is not None:
            state["regulariser"], state["regulariser_optimizer"] = self.regulariser.learned.state()
            state["regulariser_scaler"] = self.regulariser.scaler.state_dict()
        return state | (self.gan.state() if self.gan is not None else {})


def _load_perceptual(settings: TrainSettings, device: torch.device) -> PerceptualLoss:
    network = load_lpips(settings.lpips_weights)
    return PerceptualLoss(network, settings.lpips_window, draw=settings.lpips_draw).to(device)
