"""Settings of a training as plain values. A preset is one; every field can be overridden on the command line."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import SettingError
from ..settings import RopeSettings, check_choice, check_range, check_seed, check_sigma

TRANSFORMER_TARGETS = (
    "x_embedder attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj "
    "attn.to_add_out ff.net.0.proj ff.net.2 ff_context.net.0.proj ff_context.net.2"
).split()
ENCODER_TARGETS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_q to_k to_v to_out.0".split()
"""OMGSR's LoRA targets (arXiv 2508.08227)."""


DEGRADATIONS = ("omgsr", "embedded")
"""Names in train.data.DEGRADATIONS."""

LARGEST = {
    "rank": 4096, "alpha": 65_536, "steps": 10**8, "batch": 10**5, "per_device": 10**4, "crop": 32_768, "scale": 16,
    "lpips_window": 32_768,
}  # fmt: skip
"""What counts is at least 1 and at most this."""


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses, each at least 0; 0 leaves a loss out.

    mse, l1, lpips, wavelet: the picture against the HR picture. periodicity: L_AP. refinement: L_vae.
    adversarial: the generator's share of the GAN loss. vsd: variational score distillation on the latent.
    """

    mse: float = 2.0
    l1: float = 0.0
    lpips: float = 0.0
    wavelet: float = 0.0
    periodicity: float = 1.0
    refinement: float = 5.0
    adversarial: float = 0.0
    vsd: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(f"The weight of the {name} loss is at least 0, got {value}.")
        if not any(asdict(self).values()):
            raise SettingError("All loss weights are 0: nothing would be trained.")


@dataclass(frozen=True)
class TrainSettings:
    """One training; saved with every checkpoint.

    batch: pictures per optimizer step over all processes; per_device: of those, pictures at once on one device.
    crop: HR px, a multiple of 32 (F16) or 16 (F8). scale: of the LR picture, 1/scale. degradation: a name in
    training.data.DEGRADATIONS. fidelity: of the back-projection before the losses, 0 (OP4KSR) to 1.
    normalise_periodicity: L_AP over the truth's variance. lpips_weights, features: the files of those two networks.
    negative: prompt file of the unconditional prior that VSD guides away from; its regulariser is a second LoRA.
    precision: `bf16` or `no` (float32). Steps, rates and rank must be positive. Raises SettingError.
    """

    sigma: float = 0.3
    rope: RopeSettings = field(default_factory=RopeSettings)
    guidance: float = 1.0
    rank: int = 64
    alpha: int = 64
    learning_rate: float = 2.5e-5
    weight_decay: float = 1e-4
    clip: float = 1.0
    steps: int = 2000
    batch: int = 16
    per_device: int = 1
    crop: int = 1024
    scale: int = 4
    degradation: str = "omgsr"
    fidelity: float = 0.0
    losses: LossWeights = field(default_factory=LossWeights)
    normalise_periodicity: bool = False
    lpips_weights: str = ""
    lpips_window: int = 256
    features: str = ""
    gan: str = "bce"
    gan_learning_rate: float = 5e-5
    negative: str = ""
    vsd_guidance: float = 7.5
    regulariser_learning_rate: float = 2.5e-5
    precision: str = "bf16"
    checkpointing: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        for name, most in LARGEST.items():
            check_range(name, getattr(self, name), 1, most)
        for name in ("learning_rate", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise SettingError(f"{name} must be a finite number above 0, got {getattr(self, name)}.")
        rates = ("gan_learning_rate", "regulariser_learning_rate")
        for name in ("weight_decay", "guidance", "vsd_guidance", *rates):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise SettingError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}.")
        check_seed("The seed", self.seed)
        check_choice("degradation", self.degradation, DEGRADATIONS)
        for name, options in (("precision", ("bf16", "no")), ("gan", ("bce", "hinge"))):
            if getattr(self, name) not in options:
                raise SettingError(f"{name} is one of {', '.join(options)}, got {getattr(self, name)!r}.")
        if self.crop % self.scale or self.crop // self.scale < 8:
            raise SettingError(f"The crop is a multiple of the scale and at least 8 times it, got {self.crop} px.")
        if not 0 <= self.fidelity <= 1:
            raise SettingError(f"Fidelity must lie in [0, 1], got {self.fidelity}.")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainSettings":
        """The inverse of `as_dict`."""
        rope, losses = RopeSettings(**values["rope"]), LossWeights(**values["losses"])
        return cls(**values | {"rope": rope, "losses": losses})


MAY_CHANGE = frozenset({"steps", "per_device", "checkpointing"})
"""What a resumed run may change; anything else would be another training."""


def changed(old: TrainSettings, new: TrainSettings) -> list[str]:
    """`name: old -> new` of every setting that differs and may not."""
    before, after = old.as_dict(), new.as_dict()
    return [f"{k}: {before[k]} -> {after[k]}" for k in before if k not in MAY_CHANGE and before[k] != after[k]]


_PAPER = TrainSettings(losses=LossWeights(lpips=5.0, adversarial=0.5, wavelet=1.0, periodicity=1000.0))

PRESETS = {
    # OP4KSR (arXiv 2605.13457): LoRA 64 on encoder and transformer, lr 2.5e-5, batch 16, 2,000 iterations, theta 100.
    # Its loss weights and crop are not published: the weights are OMGSR's, with the wavelet loss at 1. L_AP of pictures
    # in [0, 1] is small (1e-7 to 1e-6 in trainings of the embedded model, where MSE is 1e-3; a lattice of 4/255 alone
    # is 1.5e-9), so that it takes a weight of 1000 to matter.
    "op4ksr-paper": _PAPER,
    # OMGSR-F (arXiv 2508.08227): FLUX.1-dev, its own VAE at 8x, theta 10,000.
    "omgsr-f": replace(
        _PAPER,
        sigma=0.5051,
        rope=RopeSettings(theta=10_000.0),
        losses=LossWeights(lpips=5.0, adversarial=0.5, periodicity=0.0),
    ),
    # Fine-tunes the embedded model on any machine, on what it is judged by: the picture after back-projection.
    "embedded": TrainSettings(
        rank=16,
        alpha=16,
        learning_rate=2e-4,
        steps=500,
        batch=4,
        per_device=4,
        crop=256,
        degradation="embedded",
        fidelity=0.8,
        losses=LossWeights(mse=10.0, l1=1.0, wavelet=0.25, periodicity=10.0, refinement=0.02),
        precision="no",
        checkpointing=False,
    ),
}
