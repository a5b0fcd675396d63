"""VSD in the training loop: the regulariser's own step."""

from typing import Any

from torch import Tensor

from .learned import Learned
from .precision import autocast, make_scaler
from .settings import TrainSettings
from .sharding import average_gradients, clip_gradients
from .strategies.lora import REGULARISER
from .strategies.protocol import Distillation, Restored


class Regulariser:
    """The second LoRA, which follows what the step makes now, with its optimizer."""

    def __init__(self, distillation: Distillation, settings: TrainSettings, accelerator: Any):
        self.distillation = distillation
        self.settings = settings
        self.accelerator = accelerator
        self.learned = Learned(distillation.weights(), settings, settings.regulariser_learning_rate)
        self.scaler = make_scaler(settings, accelerator.device)

    def step(self, restored: Restored, seeds: Tensor) -> Tensor:
        """Learns from the restored latents; its loss. Call it within `accumulate`."""
        accelerator, learned = self.accelerator, self.learned
        with self.distillation.active(REGULARISER):
            with autocast(accelerator, self.settings):
                loss = self.distillation.regulariser_loss(restored, seeds)
            self.scaler.scale(loss / accelerator.gradient_accumulation_steps).backward()
        if accelerator.sync_gradients:
            average_gradients(learned.values(), lambda x: accelerator.reduce(x, "mean"))
            self.scaler.unscale_(learned.optimizer)
            clip_gradients(learned.values(), self.settings.clip)
            self.scaler.step(learned.optimizer)
            self.scaler.update()
            learned.optimizer.zero_grad()
        return loss
