"""Settings of a training as plain values. A preset is one; every field can be overridden on the command line."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import SettingError
from ..lattice.autocorrelation import HIGHPASSES, NORMALISATIONS, Highpass, Normalise
from ..settings import RopeSettings, check_choice, check_range, check_seed, check_sigma
from .degradation.presets import DEGRADATIONS

TRANSFORMER_TARGETS = (
    "x_embedder attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj "
    "attn.to_add_out ff.net.0.proj ff.net.2 ff_context.net.0.proj ff_context.net.2"
).split()
ENCODER_TARGETS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_q to_k to_v to_out.0".split()
"""OMGSR's LoRA targets (arXiv 2508.08227)."""

_OF_PICTURES = frozenset({"mse", "l1", "lpips", "wavelet", "periodicity", "adversarial"})
STAGES = {
    "adapters": _OF_PICTURES | {"refinement", "vsd"},
    "decoder": _OF_PICTURES,
    "encoder": _OF_PICTURES,
    "prior": frozenset({"denoising"}),
}
"""What can be trained, and the losses that each may have: LoRA for one step (OP4KSR and its relatives); the two halves
of TVT's VAE-D4, one after the other; the UNet that F2IDiff-SR starts from."""

LARGEST = {
    "rank": 4096, "alpha": 65_536, "steps": 10**8, "batch": 10**5, "per_device": 10**4, "crop": 32_768, "scale": 16,
    "lpips_window": 32_768,
}  # fmt: skip
"""What counts is at least 1 and at most this."""


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses, each at least 0; 0 leaves a loss out.

    mse, l1, lpips, wavelet: the picture against the HR picture. periodicity: L_AP. refinement: L_vae.
    adversarial: the generator's share of the GAN loss. vsd: variational score distillation on the latent. denoising:
    of the stage `prior`, the noise (or v) of a latent at a random timestep.

    They are for pictures in [0, 1]. Papers that train on [-1, 1] publish an MSE weight that is 4 times as large here,
    and an L1 weight twice as large (OMGSR's MSE 2 is 8); LPIPS looks at [-1, 1] in either case, and the losses on
    latents and logits do not change.
    """

    mse: float = 8.0
    l1: float = 0.0
    lpips: float = 0.0
    wavelet: float = 0.0
    periodicity: float = 1.0
    refinement: float = 5.0
    adversarial: float = 0.0
    vsd: float = 0.0
    denoising: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(f"The weight of the {name} loss is at least 0, got {value}.")
        if not any(asdict(self).values()):
            raise SettingError("All loss weights are 0: nothing would be trained.")


@dataclass(frozen=True)
class TrainSettings:
    """One training; saved with every checkpoint.

    stage: what is trained, one of STAGES. critic: the discriminator, `features` (heads on the network in `features`) or
    `patch` (a PatchGAN). gan_adaptive: scales the adversarial loss so that its gradient at the decoder's last layer is
    as large as that of the other losses (stages decoder and encoder). drop_condition: share of the pictures that are
    trained without their condition, in [0, 1] (stage prior).
    batch: pictures per optimizer step over all processes; per_device: of those, pictures at once on one device.
    crop: HR px of a side, a multiple of 32 (F16) or 16 (F8). least_crop: 0, or the least side: then each sample
    draws its longest side from least_crop, twice that, ... up to crop, pictures that are narrower give rectangles,
    and per_device is 1. scale: of the LR picture, 1/scale. degradation: a name in degradation.presets.DEGRADATIONS.
    fidelity: of the back-projection before the losses, 0 (OP4KSR) to 1. lap_highpass, lap_normalise: the form of
    L_AP, see `autocorrelation_loss`. lpips_weights, features: the files of those two networks. lpips_draw: LPIPS
    windows drawn for each picture, 0 for all. captions: a Stable Diffusion UNet reads each picture's own tokens,
    `NAME.prompt.safetensors` beside it. negative: prompt file of the unconditional prior that VSD guides away from;
    its regulariser is a second LoRA. vsd_range: the sigmas, or timesteps over 1000, at which VSD noises.
    vsd_quadrants: on the four quadrants of the latent, each by itself (TVT). timestep: of a Stable Diffusion UNet,
    which has it in sigma's place. prior_rope: the positions under which the frozen prior was trained, at which VSD
    runs it and the regulariser. precision: `bf16` or `no` (float32). Steps, rates and rank must be positive. Raises
    SettingError.
    """

    stage: str = "adapters"
    sigma: float = 0.3
    timestep: int = 999
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
    least_crop: int = 0
    scale: int = 4
    degradation: str = "omgsr"
    fidelity: float = 0.0
    losses: LossWeights = field(default_factory=LossWeights)
    lap_highpass: Highpass = "none"
    lap_normalise: Normalise = "none"
    lpips_weights: str = ""
    lpips_window: int = 256
    lpips_draw: int = 0
    features: str = ""
    gan: str = "bce"
    gan_learning_rate: float = 5e-5
    critic: str = "features"
    gan_adaptive: bool = False
    negative: str = ""
    captions: bool = False
    drop_condition: float = 0.1
    vsd_guidance: float = 7.5
    vsd_range: tuple[float, float] = (0.02, 0.98)
    vsd_quadrants: bool = False
    prior_rope: RopeSettings = field(default_factory=lambda: RopeSettings(theta=10_000.0))
    regulariser_learning_rate: float = 2.5e-5
    precision: str = "bf16"
    checkpointing: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_range("timestep", self.timestep, 0, 999)
        check_range("drop_condition", self.drop_condition, 0, 1)
        self._check_stage()
        if not 0 < self.vsd_range[0] < self.vsd_range[1] < 1:
            raise SettingError(f"vsd_range is two shares of the noise, 0 < low < high < 1, got {self.vsd_range}.")
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
        check_choice("degradation", self.degradation, tuple(DEGRADATIONS))
        check_choice("lap_highpass", self.lap_highpass, HIGHPASSES)
        check_choice("lap_normalise", self.lap_normalise, NORMALISATIONS)
        check_range("lpips_draw", self.lpips_draw, 0, LARGEST["lpips_window"])
        if self.least_crop:
            check_range("least_crop", self.least_crop, 8 * self.scale, self.crop)
            if self.per_device != 1:
                raise SettingError(
                    f"least_crop gives pictures of several sizes: per_device is 1, got {self.per_device}."
                )
        for name, options in (
            ("precision", ("bf16", "no")),
            ("gan", ("bce", "hinge")),
            ("critic", ("features", "patch")),
        ):
            if getattr(self, name) not in options:
                raise SettingError(f"{name} is one of {', '.join(options)}, got {getattr(self, name)!r}.")
        if self.crop % self.scale or self.crop // self.scale < 8:
            raise SettingError(f"The crop is a multiple of the scale and at least 8 times it, got {self.crop} px.")
        if not 0 <= self.fidelity <= 1:
            raise SettingError(f"Fidelity must lie in [0, 1], got {self.fidelity}.")

    def _check_stage(self) -> None:
        check_choice("stage", self.stage, tuple(STAGES))
        foreign = [name for name, value in asdict(self.losses).items() if value and name not in STAGES[self.stage]]
        if foreign:
            raise SettingError(f"The stage {self.stage} has no loss {foreign[0]}: set --loss-{foreign[0]} to 0.")
        clean = self.stage != "adapters"
        if clean and (self.degradation != "none" or self.scale != 1):
            raise SettingError(
                f"The stage {self.stage} learns from clean pictures: degradation none and scale 1, got "
                f"{self.degradation} and {self.scale}."
            )
        if clean and self.captions:
            raise SettingError(f"captions condition an adapter's training; the stage {self.stage} has none.")
        if self.gan_adaptive and self.stage not in ("decoder", "encoder"):
            raise SettingError("gan_adaptive is for the stages decoder and encoder; elsewhere the decoder is frozen.")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainSettings":
        """The inverse of `as_dict`."""
        ropes = {name: RopeSettings(**values[name]) for name in ("rope", "prior_rope")}
        rest = {"vsd_range": tuple(values["vsd_range"]), "losses": LossWeights(**values["losses"])}
        return cls(**values | ropes | rest)


MAY_CHANGE = frozenset({"steps", "per_device", "checkpointing"})
"""What a resumed run may change; anything else would be another training."""


def changed(old: TrainSettings, new: TrainSettings) -> list[str]:
    """`name: old -> new` of every setting that differs and may not."""
    before, after = old.as_dict(), new.as_dict()
    return [f"{k}: {before[k]} -> {after[k]}" for k in before if k not in MAY_CHANGE and before[k] != after[k]]


_ULTRAFLUX = RopeSettings(theta=10_000.0, scheme="resonance-yarn")
_PAPER = TrainSettings(
    crop=4096,
    least_crop=1024,
    losses=LossWeights(lpips=5.0, adversarial=0.5, wavelet=1.0, periodicity=1000.0),
    prior_rope=_ULTRAFLUX,
)

_OSEDIFF = TrainSettings(
    rank=4,
    alpha=8,
    learning_rate=5e-5,
    weight_decay=1e-2,
    steps=20_000,
    crop=512,
    degradation="osediff",
    losses=LossWeights(mse=4.0, lpips=2.0, vsd=1.0, periodicity=0.0, refinement=0.0),
    regulariser_learning_rate=5e-5,
)

_VAE_STAGE = TrainSettings(
    stage="encoder",
    learning_rate=5e-5,
    weight_decay=1e-2,
    steps=50_000,
    crop=256,
    scale=1,
    degradation="none",
    losses=LossWeights(mse=0.0, l1=2.0, lpips=1.0, periodicity=0.0, refinement=0.0),
    critic="patch",
    gan="hinge",
    gan_adaptive=True,
)

PRESETS = {
    # OP4KSR (arXiv 2605.13457): LoRA 64 on encoder and transformer, lr 2.5e-5, batch 16, 2,000 iterations, theta 100,
    # L_AP as the paper writes it. The weights of its losses and its crop are not published. Two days on eight cards are
    # 86 s for an iteration of 16, about what 3 to 4K crops take, and positions above a crop's tokens are never seen: so
    # 4096 px, in a mix down to 1024. The loss weights are OMGSR's: MSE 2, LPIPS 5, GAN 0.5 and L_vae 5 on pictures in
    # [-1, 1], where 2 of MSE is 8 of ours. L_AP of pictures in [0, 1] is 1e-7 to 1e-6, a lattice of 4/255 alone 1.5e-9.
    "op4ksr-paper": _PAPER,
    # What the slopes along a lattice ask for (docs/ablation.md): as the paper writes it, 1000 L_AP pulls at a lattice
    # of 1/255 with 2e-6, MSE with 300e-6, L1 with 3300e-6. Without the mean of a 33-px box and over the variance, L_AP
    # pulls with 18,000e-6 at weight 1; 0.3 of it is stronger than the other losses together from 1/255 on.
    "op4ksr": replace(
        _PAPER, losses=replace(_PAPER.losses, periodicity=0.3), lap_highpass="box", lap_normalise="variance"
    ),
    # OMGSR-F (arXiv 2508.08227): FLUX.1-dev, its own VAE at 8x, theta 10,000; crops of 1024 px.
    "omgsr-f": replace(
        _PAPER,
        sigma=0.5051,
        rope=RopeSettings(theta=10_000.0),
        learning_rate=5e-5,
        batch=8,
        steps=6000,
        crop=1024,
        least_crop=0,
        losses=LossWeights(lpips=5.0, adversarial=0.5, periodicity=0.0),
        prior_rope=RopeSettings(theta=10_000.0),
    ),
    # OSEDiff (arXiv 2406.08177): LoRA 4 (alpha 8) on UNet and encoder, conv_in whole; on [-1, 1] MSE 1, LPIPS 2, VSD 1.
    # The number of steps is not stated in what we read.
    "osediff": _OSEDIFF,
    # TVT (arXiv 2507.20291): the same at timestep 1, VSD on the quadrants of its 128x128 latent, t from 250 to 750.
    "tvt": replace(_OSEDIFF, timestep=1, vsd_range=(0.25, 0.75), vsd_quadrants=True),
    # TVT's VAE-D4 in two stages: pixel, LPIPS and adversarial loss with an adaptive weight (Esser et al. 2021, eq. 7),
    # then pixel and LPIPS. Weights, rate, crop and batch are not stated in what we read; these are LDM's habits.
    "tvt-decoder": replace(_VAE_STAGE, stage="decoder", losses=replace(_VAE_STAGE.losses, adversarial=0.5)),
    "tvt-encoder": replace(_VAE_STAGE, gan_adaptive=False),
    # F2IDiff-SR's prior: 700,000 steps of 120 pictures at 1e-4, the VAE frozen. Its crop is not stated.
    "f2idiff-prior": TrainSettings(
        stage="prior",
        learning_rate=1e-4,
        weight_decay=1e-2,
        steps=700_000,
        batch=120,
        crop=256,
        scale=1,
        degradation="none",
        losses=LossWeights(mse=0.0, periodicity=0.0, refinement=0.0, denoising=1.0),
    ),
    # F2IDiff-SR: OSEDiff's losses with DINOv2's features as the condition; 256-px crops, batch 6.
    "f2idiff": replace(_OSEDIFF, crop=256, batch=6),
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
        losses=LossWeights(mse=10.0, l1=1.0, wavelet=0.25, periodicity=0.1, refinement=0.02),
        lap_highpass="box",
        lap_normalise="variance",
        prior_rope=RopeSettings(),
        precision="no",
        checkpointing=False,
    ),
}
