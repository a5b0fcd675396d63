"""The adversarial loss in the training loop: the generator's share and the critic's own step."""

import random
from typing import Any

import torch
from torch import Tensor, nn

from .learned import make_optimizer
from .losses.adversarial import Discriminator, PatchCritic, diff_augment, discriminator_loss, generator_loss
from .networks import load_discriminator
from .settings import TrainSettings
from .strategies.protocol import Batch


class Gan:
    """A critic that learns to tell HR pictures from restored ones, with its optimizer.

    Raises WeightsError where the network in `features` is missing.
    """

    def __init__(self, settings: TrainSettings, accelerator: Any, state: dict[str, Any] | None = None):
        self.settings = settings
        self.accelerator = accelerator
        torch.manual_seed(settings.seed)  # the heads begin by chance
        critic = _load_critic(settings)
        heads = {name: p for name, p in critic.named_parameters() if p.requires_grad}
        optimizer = make_optimizer(heads, settings, settings.gan_learning_rate)
        if state is not None:
            critic.heads.load_state_dict(state["critic"])
            optimizer.load_state_dict(state["critic_optimizer"])
            for group in optimizer.param_groups:
                group["lr"] = settings.gan_learning_rate  # which may be another than when it was saved
        self.critic, self.optimizer = accelerator.prepare(critic, optimizer)

    def generator_loss(self, shown: Tensor, seeds: Tensor) -> Tensor:
        """How far the restored pictures (B, 3, H, W) are from being taken for real: a scalar."""
        critic = self.accelerator.unwrap_model(self.critic)
        critic.heads.requires_grad_(False)  # this pass teaches the generator alone
        seen = window_of(shown, self.settings.gan_window, int(seeds[0]))
        loss = generator_loss(critic(diff_augment(seen, seeds.tolist())), self.settings.gan)
        critic.heads.requires_grad_(True)
        return loss

    def critic_step(self, shown: Tensor, batch: Batch) -> Tensor:
        """The critic learns from HR pictures and detached restored ones; its loss. Call it within `accumulate`."""
        seeds = batch["seed"].tolist()
        real, made = (window_of(x, self.settings.gan_window, seeds[0]) for x in (batch["hr"], shown))
        both = torch.cat([diff_augment(real, seeds), diff_augment(made, seeds)])
        logits = [level.chunk(2) for level in self.critic(both)]
        loss = discriminator_loss([real for real, _ in logits], [fake for _, fake in logits], self.settings.gan)
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            heads = [p for p in self.critic.parameters() if p.requires_grad]
            torch.nn.utils.clip_grad_norm_(heads, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def state(self) -> dict[str, Any]:
        """The critic's part of a checkpoint."""
        heads = self.accelerator.unwrap_model(self.critic).heads
        return {"critic": heads.state_dict(), "critic_optimizer": self.optimizer.state_dict()}


def window_of(x_bchw: Tensor, side: int, seed: int) -> Tensor:
    """What the critic sees of pictures: `side` px square at a place drawn by `seed`; 0 and smaller pictures: all.

    A ConvNeXt keeps 13 to 64 GB for the backward pass at 4096 px, and a sixteenth of that at 1024.
    """
    height, width = x_bchw.shape[-2:]
    if not side or max(height, width) <= side:
        return x_bchw
    dice = random.Random(f"critic {seed}")
    top, left = (dice.randint(0, max(0, whole - side)) for whole in (height, width))
    return x_bchw[..., top : top + side, left : left + side]


def adaptive_weight(others: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """How much harder the other losses pull at the decoder's last layer than the adversarial one does, at most
    10,000 (Esser et al. 2021, VQGAN, eq. 7). A scalar without gradient."""
    pulls = [torch.autograd.grad(x, last_layer, retain_graph=True)[0].norm() for x in (others, adversarial)]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, 1e4).detach()


def _load_critic(settings: TrainSettings) -> Discriminator | PatchCritic:
    return PatchCritic() if settings.critic == "patch" else load_discriminator(settings.features)
