"""The flow prior, and its fine-tunes for one step under different losses and positions."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from op4ksr_core.files import write_atomically
from op4ksr_core.lattice.autocorrelation import Highpass, Normalise, autocorrelation_loss, highpass

from .world import THETA_PRIOR, THETA_RFR, TRAINED, Model, encode, enlarged, pictures

BATCH = 8
LAGS = (2, 4, 6, 8, 10)
"""px: quarters of a token's side, as the paper's 8 to 40 px are of its 32."""

MSE, L1, TEXTURE = 10.0, 1.0, 0.05
PRIOR_STEPS, TUNE_STEPS = 1200, 400


@dataclass(frozen=True)
class Arm:
    """What one fine-tune has of its own."""

    theta: float = THETA_PRIOR
    texture: bool = False
    periodicity: float = 0.0
    highpass: Highpass = "binomial"
    normalise: Normalise = "variance"


ARMS = {
    "plain": Arm(),
    "plain+rfr": Arm(THETA_RFR),
    "texture": Arm(texture=True),
    "texture+rfr": Arm(THETA_RFR, texture=True),
    "texture+lap": Arm(texture=True, periodicity=0.3),
    "texture+lap+rfr": Arm(THETA_RFR, texture=True, periodicity=0.3),
    "texture+lap-literal": Arm(texture=True, periodicity=1000.0, highpass="none", normalise="none"),
}


def texture_loss(made: Tensor, truth: Tensor) -> Tensor:
    """Squared error of the log of the local energy of the high band (windows of 16 px): as much texture as the truth,
    wherever its grains lie. It stands for what LPIPS and a GAN ask for."""

    def energy(x: Tensor) -> Tensor:
        return torch.log(F.avg_pool2d(highpass(x).square(), 16, 8) + 1e-5)

    return F.mse_loss(energy(made), energy(truth))


def losses(arm: Arm, made: Tensor, truth: Tensor) -> Tensor:
    """The weighted sum of an arm."""
    total = MSE * F.mse_loss(made, truth) + L1 * F.l1_loss(made, truth)
    if arm.texture:
        total = total + TEXTURE * texture_loss(made, truth)
    if arm.periodicity:
        total = total + arm.periodicity * autocorrelation_loss(
            made, truth, LAGS, normalise=arm.normalise, highpassed=arm.highpass
        )
    return total


def train_prior(path: Path, steps: int = PRIOR_STEPS) -> None:
    """Flow matching at theta 10,000 on pictures of 16 tokens a side, written to `path`."""
    model = Model(THETA_PRIOR)

    def loss(step: int) -> Tensor:
        z = encode(pictures(BATCH, TRAINED, step))
        dice = torch.Generator().manual_seed(step)
        noise, sigma = torch.randn(z.shape, generator=dice), torch.randn(BATCH, generator=dice).sigmoid()
        s = sigma.view(-1, 1, 1, 1)
        return F.mse_loss(model.velocity((1 - s) * z + s * noise, sigma), noise - z)

    _train(model, loss, steps, 1e-3, path)


def fine_tune(arm: Arm, seed: int, prior: Path, path: Path, steps: int = TUNE_STEPS) -> None:
    """One step at sigma 0.3, all weights trained from the prior's."""
    model = Model(THETA_PRIOR)
    model.load_state_dict(torch.load(prior, weights_only=True))
    model.set_theta(arm.theta)

    def loss(step: int) -> Tensor:
        number = 1_000_000 * (seed + 1) + step
        truth = pictures(BATCH, TRAINED, number)
        return losses(arm, model.restore(enlarged(truth, number)), truth)

    _train(model, loss, steps, 3e-4, path)


def _train(model: Model, loss_of: Callable[[int], Tensor], steps: int, rate: float, path: Path) -> None:
    """Adam with a warm-up and a linear decay over the last third."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-4)
    started, total = time.time(), 0.0
    for step in range(steps):
        share = min(1.0, (step + 1) / 50, 3 * (steps - step) / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 150 == 0:
            print(f"{path.stem} {step + 1}: loss {total / 150:.4f}, {time.time() - started:.0f} s", flush=True)
            total = 0.0
    write_atomically(path, lambda file: torch.save(model.state_dict(), file))


def trained(arm: Arm, path: Path) -> Model:
    """A fine-tune as it was written."""
    model = Model(arm.theta)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.requires_grad_(False).eval()
