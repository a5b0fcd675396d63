"""What the training loop needs of a family of models.

A family is an `nn.Module` with these members. Families share functions and parts, not a base class: `lora` makes the
adapters, `restoration` the losses on the picture, and a `Distillation` is a part of those that have VSD.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""`hr` (B, 3, H, W) and `lr` (B, 3, H/scale, W/scale) in [0, 1], `seed` (B,), and `prompt` (B, L, D) with captions."""


class Restored(NamedTuple):
    """What one step makes of a batch. Latents are (B, C, h, w), the picture is (B, 3, H, W) as decoded, not clamped."""

    z_lr: Tensor
    """The latent of the enlarged LR picture."""
    z: Tensor
    """The restored latent."""
    picture: Tensor
    condition: Tensor | None = None
    """The tokens that a UNet was conditioned by, (1 or B, L, D)."""


class Distillation(Protocol):
    """VSD: a frozen prior teaches the step, and a second LoRA (the regulariser) follows what the step makes."""

    def weights(self) -> dict[str, nn.Parameter]:
        """The regulariser's weights by name."""

    def active(self, adapter: str | None) -> AbstractContextManager[None]:
        """Runs the network with the adapter of that name; with None as the prior that it was."""

    def loss(self, restored: Restored, seeds: Tensor) -> Tensor:
        """VSD of the restored latents: a scalar, whose gradient reaches the step."""

    def regulariser_loss(self, restored: Restored, seeds: Tensor) -> Tensor:
        """What the regulariser learns from the restored latents, detached. Call it and its backward pass `active`."""


class TrainingStrategy(Protocol):
    """A family of models that can be trained; called with `inputs` it gives what `losses` reads."""

    @property
    def multiple(self) -> int:
        """Sides of a crop are multiples of this, px."""

    @property
    def takes_captions(self) -> bool:
        """Whether each picture may bring its own prompt."""

    @property
    def shardable(self) -> nn.Module | None:
        """The transformer that FSDP may share out; None where there is none."""

    @property
    def last_layer(self) -> nn.Parameter | None:
        """Where an adaptive adversarial weight compares gradients; None where the decoder is frozen."""

    @property
    def distillation(self) -> Distillation | None:
        """VSD, where the settings give it a weight."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """What a call takes of a batch."""

    def losses(self, batch: Batch, outputs: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """(losses by name, unweighted, of those whose weight is not 0 and that need no further network; the picture
        that they see, if there is one)."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is learned, by name; the regulariser is not part of it."""

    def export(self) -> Callable[[Path], None]:
        """Copies what was learned, and returns what writes the copy into a folder.

        Sharded: to be called in all processes at once; the writer by one.
        """
