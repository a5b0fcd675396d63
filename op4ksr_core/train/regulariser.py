"""VSD in the training loop: the regulariser's own step."""

from typing import Any

from torch import Tensor

from .learned import Learned
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

    def step(self, restored: Restored, seeds: Tensor) -> Tensor:
        """Learns from the restored latents; its loss. Call it within `accumulate`."""
        accelerator, learned = self.accelerator, self.learned
        with self.distillation.active(REGULARISER):
            with accelerator.autocast():
                loss = self.distillation.regulariser_loss(restored, seeds)
            (loss / accelerator.gradient_accumulation_steps).backward()
        if accelerator.sync_gradients:
            average_gradients(learned.values(), lambda x: accelerator.reduce(x, "mean"))
            clip_gradients(learned.values(), self.settings.clip)
            learned.optimizer.step()
            learned.optimizer.zero_grad()
        return loss
