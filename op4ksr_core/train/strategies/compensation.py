"""The detail network behind any frozen model: it learns what that model's pictures lack of the truth."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ...model.compensation import FACTOR, HighFrequencyCompensation, load_compensation
from ...pipeline.upscaler import Upscaler
from ...weights.model_facts import facts_of
from ...weights.sources import Sources
from ...weights.unet_sources import UNetSources
from ...weights.usual_settings import choose
from ..losses.detail import CHROMA_SHIPPED, LUMA_SHIPPED, colour_error, scale_detail, soft_guard
from ..settings import TrainSettings
from .protocol import Batch

FILE = "compensation.safetensors"


class Detailed(NamedTuple):
    """The frozen model's picture, and the same with the network's detail, (B, 3, H, W)."""

    picture: Tensor
    made: Tensor


class CompensationStrategy(nn.Module):
    """`restore` makes of the LR picture (B, 3, h, w) one of (B, 3, 4h, 4w), without gradients; `network` begins as the
    one that is shipped, and is trained before its detail is made stronger for shipping."""

    takes_captions = False
    last_layer = None
    shardable = None
    distillation = None
    multiple = FACTOR

    def __init__(
        self, restore: Callable[[Tensor], Tensor], network: HighFrequencyCompensation, settings: TrainSettings
    ):
        super().__init__()
        self.settings = settings
        self.restore = restore
        self.network = network.train().requires_grad_(True)
        scale_detail(self.network, 1 / LUMA_SHIPPED, 1 / CHROMA_SHIPPED)

    @classmethod
    def load(cls, sources: Sources | UNetSources, settings: TrainSettings) -> "CompensationStrategy":
        """Behind the model of these files, run as `op4ksr upscale` runs it without a preset; on from the network that
        they name, else the bundled one. Raises WeightsError."""
        from accelerate import PartialState

        usual = replace(choose(facts_of(sources)).settings, compensation=0.0)
        upscaler = Upscaler(sources, usual, PartialState().device, check_memory=False)
        network = load_compensation(sources.compensation) if sources.compensation else load_compensation()
        return cls(lambda lr: upscaler(lr, FACTOR), network, settings)

    def inputs(self, batch: Batch) -> tuple[Tensor]:
        return (batch["lr"],)

    def forward(self, lr: Tensor) -> Detailed:
        picture = self.restore(lr).clone()  # out of inference mode
        return Detailed(picture, picture + self.network(lr, picture).float())

    def losses(self, batch: Batch, outputs: Detailed) -> tuple[dict[str, Tensor], Tensor]:
        """The picture that is shown, and that the soft guard sees, has the detail as strong as it is shipped."""
        truth, weights = batch["hr"], self.settings.losses
        shown = outputs.picture + LUMA_SHIPPED * (outputs.made - outputs.picture)
        losses: dict[str, Tensor] = {}
        if weights.mse:
            losses["mse"] = F.mse_loss(outputs.made, truth)
        if weights.l1:
            losses["l1"] = F.l1_loss(outputs.made, truth)
        if weights.colour:
            losses["colour"] = colour_error(outputs.made, truth)
        if weights.soft:
            losses["soft"] = soft_guard(shown, truth)
        return losses, shown

    def trainable(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def export(self) -> Callable[[Path], None]:
        """`compensation.safetensors`, as `--compensation-weights` reads it."""
        from safetensors.torch import save_file

        shipped = copy.deepcopy(self.network).cpu()
        scale_detail(shipped, LUMA_SHIPPED, CHROMA_SHIPPED)
        state = {name: value.detach().contiguous() for name, value in shipped.state_dict().items()}
        return lambda folder: save_file(state, folder / FILE)
