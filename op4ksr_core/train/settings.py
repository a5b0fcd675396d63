"""Settings of a training, each declared once (`declared.py`).

Checks, command-line options, `--settings` files and the table in docs/training.md derive from the declarations.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..declared import as_values, check, from_values, setting
from ..errors import SettingError
from ..lattice.autocorrelation import LAGS, Highpass, Normalise
from ..model.compensation import FACTOR
from ..settings import MAX_SEED, RopeSettings
from .degradation.presets import DEGRADATIONS

TRANSFORMER_TARGETS = (
    "x_embedder attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj "
    "attn.to_add_out ff.net.0.proj ff.net.2 ff_context.net.0.proj ff_context.net.2"
).split()
ENCODER_TARGETS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_q to_k to_v to_out.0".split()
"""OMGSR's LoRA targets (arXiv 2508.08227)."""

Stage = Literal["adapters", "decoder", "encoder", "prior", "compensation"]

_OF_PICTURES = frozenset({"mse", "l1", "lpips", "wavelet", "periodicity", "adversarial"})
STAGES = {
    "adapters": _OF_PICTURES | {"refinement", "vsd"},
    "decoder": _OF_PICTURES,
    "encoder": _OF_PICTURES,
    "prior": frozenset({"denoising"}),
    "compensation": frozenset({"mse", "l1", "colour", "soft"}),
}
"""What can be trained, and the losses that each may have."""

MAX_SIDE = 32_768
MULTIPLE = 64
"""Sides of crops that are not square are multiples of this, which every family of models takes."""


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses; 0 leaves a loss out. Raises SettingError.

    They are for pictures in [0, 1]. Papers that train on [-1, 1] publish an MSE weight that is 4 times as large here,
    and an L1 weight twice as large (OMGSR's MSE 2 is 8); LPIPS looks at [-1, 1] in either case, and the losses on
    latents and logits do not change.
    """

    mse: float = setting(8.0, "Weight of the mean squared error of the picture.", low=0)
    l1: float = setting(0.0, "Weight of the mean absolute error of the picture.", low=0)
    lpips: float = setting(0.0, "Weight of LPIPS in windows. Needs --lpips-weights.", low=0)
    wavelet: float = setting(0.0, "Weight of the Haar wavelet loss.", low=0)
    periodicity: float = setting(1.0, "Weight of L_AP, the loss on periodic artefacts.", low=0)
    refinement: float = setting(5.0, "Weight of L_vae, on the latent of the LR picture.", low=0)
    adversarial: float = setting(0.0, "Weight of the GAN loss in what is trained. The critic has its own loss.", low=0)
    vsd: float = setting(0.0, "Weight of variational score distillation of the latent. Needs --negative.", low=0)
    denoising: float = setting(0.0, "Weight of the noise or v of a latent at a random timestep (stage prior).", low=0)

    colour: float = setting(0.0, "Weight of the L1 of the colour differences (stage compensation).", low=0)
    soft: float = setting(
        0.0, "Weight of detail that is stronger than the truth's where that is soft (stage compensation).", low=0
    )

    def __post_init__(self) -> None:
        check(self)
        if not any(asdict(self).values()):
            raise SettingError("All loss weights are 0: nothing would be trained. Give one of them a weight.")


@dataclass(frozen=True)
class TrainSettings:
    """One training; saved with every checkpoint. Raises SettingError on a value out of range or that fits no other."""

    stage: Stage = setting(
        "adapters",
        "What is trained: adapters (LoRA for one step), decoder or encoder (the halves of TVT's VAE-D4, in this "
        "order), prior (the UNet that F2IDiff-SR starts from), compensation (the detail network behind a frozen model, "
        "which is run as by upscale).",
    )
    sigma: float = setting(0.3, "The mid-timestep of a flow model. OP4KSR: 0.3.", above=0, high=1)
    timestep: int = setting(999, "The timestep of a Stable Diffusion UNet, in sigma's place.", low=0, high=999)
    rope: RopeSettings = setting(RopeSettings(), "Positions of the trained transformer.")
    guidance: float = setting(1.0, "Distilled guidance of FLUX-dev models.", low=0)

    sample_posterior: bool = setting(
        False, "Samples the encoder's posterior, as inference does; else its mode. OSEDiff and OMGSR: on."
    )
    rank: int = setting(64, "Rank of the LoRA.", low=1, high=4096)
    alpha: int = setting(
        64, "Scale of the LoRA, over its rank. Follows --rank where it is not given.", low=1, high=65_536
    )
    encoder_lora: bool = setting(True, "LoRA on the VAE's encoder too. TVT: off, its encoder E4 is frozen.")
    whole_layers: str = setting(
        "conv_in", "Layers of a UNet that are trained whole, with spaces between. OSEDiff: conv_in."
    )
    optimizer: Literal["adamw", "adamw8bit"] = setting(
        "adamw",
        "adamw, or adamw8bit: torchao's, whose moments take 2 bytes a weight in place of 8 (the extra adamw8bit).",
    )
    learning_rate: float = setting(2.5e-5, "Step size of AdamW.", above=0)
    weight_decay: float = setting(1e-4, "Weight decay of AdamW.", low=0)
    clip: float = setting(1.0, "Largest norm of the gradient; a larger one is scaled down.", above=0)
    steps: int = setting(2000, "Optimizer steps of the whole training.", low=1, high=10**8)
    batch: int = setting(16, "Pictures per optimizer step, over all processes.", low=1, high=10**5)
    per_device: int = setting(1, "Pictures at once on one device. The batch is a multiple of it.", low=1, high=10**4)
    precision: Literal["bf16", "fp16", "no"] = setting(
        "bf16",
        "bf16, fp16 (a scaled loss, for cards without bfloat16), or no for float32. LoRA weights are float32 in all.",
    )
    checkpointing: bool = setting(
        True, "Computes activations again for the gradient: less memory, half as much computing again."
    )
    seed: int = setting(0, "Draws crops, degradation, noise and first weights.", low=0, high=MAX_SEED)

    crop: int = setting(
        1024,
        "Side of the HR crop, the longest with --least-crop: a multiple of 32 (F16 VAE) or 16 (F8), and of --scale.",
        low=8,
        high=MAX_SIDE,
        unit="px",
    )
    least_crop: int = setting(
        0,
        "The least side: each sample's longest side is drawn from it, twice that, ... up to --crop; narrower pictures "
        "give rectangles. Needs --per-device 1. 0: every crop is a square of --crop.",
        low=8,
        high=MAX_SIDE,
        or_zero=True,
        unit="px",
    )
    scale: int = setting(4, "The LR picture is 1/scale of the crop.", low=1, high=16)
    degradation: str = setting("omgsr", "How the LR picture is made.", choices=tuple(DEGRADATIONS))
    captions: bool = setting(
        False, "A Stable Diffusion UNet reads each picture's own tokens, NAME.prompt.safetensors beside it."
    )
    drop_condition: float = setting(
        0.1, "Share of the pictures that are trained without their condition (stage prior).", low=0, high=1
    )

    losses: LossWeights = setting(LossWeights(), "Weights of the losses.")
    fidelity: float = setting(
        0.0, "Strength of the back-projection of the picture before the losses. OP4KSR: 0.", low=0, high=1
    )
    lap_highpass: Highpass = setting("none", "What L_AP takes off both pictures first.")
    lap_normalise: Normalise = setting("none", "What L_AP divides the autocorrelation by.")
    lpips_weights: str = setting("", "torchvision's vgg16-397923af.pth.")
    lpips_window: int = setting(256, "Side of LPIPS' windows.", low=1, high=MAX_SIDE, unit="px")
    lpips_draw: int = setting(0, "LPIPS windows drawn for each picture; 0 takes all.", low=0, high=MAX_SIDE)

    critic: Literal["features", "patch"] = setting(
        "features", "The discriminator: heads on the network in --features, or a PatchGAN."
    )
    features: str = setting("", "ConvNeXt folder of transformers that the critic's heads look at, such as DINOv3's.")
    gan: Literal["bce", "hinge"] = setting("bce", "Form of the GAN loss.")
    gan_learning_rate: float = setting(5e-5, "Step size of the critic's AdamW.", low=0)
    gan_window: int = setting(
        1024,
        "Side in px of the part that the critic sees of a larger crop, at a place drawn by the sample's seed. 0: all.",
        low=64,
        high=32_768,
        or_zero=True,
    )
    gan_adaptive: bool = setting(
        False,
        "Scales the GAN loss so that it pulls at the decoder's last layer as hard as the others (stages decoder "
        "and encoder).",
    )

    vsd_prior: str = setting(
        "",
        "UNet folder that VSD distils from, such as Stable Diffusion 2.1-base's unet (TVT). Without it, the trained "
        "UNet as it was.",
    )
    negative: str = setting("", "Prompt file of the unconditional prior that VSD guides away from.")
    vsd_guidance: float = setting(7.5, "Classifier-free guidance of VSD's prior.", low=0)
    vsd_range: tuple[float, float] = setting(
        (0.02, 0.98), "The least and the largest sigma, or timestep over 1000, at which VSD noises.", above=0, below=1
    )
    vsd_quadrants: bool = setting(False, "VSD on the four quadrants of the latent, each by itself (TVT).")
    prior_rope: RopeSettings = setting(
        RopeSettings(theta=10_000.0), "Positions that the frozen prior was trained with; VSD runs it at these."
    )
    regulariser_learning_rate: float = setting(2.5e-5, "Step size of the AdamW of VSD's regulariser.", low=0)

    schedule: Literal["constant", "cosine", "linear"] = setting(
        "constant", "How all learning rates fall after the warm-up, to 0 at --steps."
    )
    warmup: int = setting(0, "Steps in which all learning rates rise in a line.", low=0, high=10**8)
    ema: float = setting(
        0.0,
        "Decay of the running average of the weights, such as 0.999, which is exported and validated. 0: none.",
        low=0,
        below=1,
    )

    def __post_init__(self) -> None:
        check(self)
        self._check_stage()
        self._check_crops()
        if self.vsd_range[0] >= self.vsd_range[1]:
            raise SettingError(f"vsd_range must rise, got {self.vsd_range}. Give the smaller number first.")

    def _check_crops(self) -> None:
        if self.crop % self.scale or self.crop // self.scale < 8:
            raise SettingError(
                f"crop must be a multiple of the scale ({self.scale}) and at least 8 times it, got {self.crop} px."
            )
        self._check_lags()
        if not self.least_crop:
            return
        if not 8 * self.scale <= self.least_crop <= self.crop:
            raise SettingError(
                f"least_crop must lie from {8 * self.scale} px (8 times the scale) to the crop of {self.crop} px, got "
                f"{self.least_crop}."
            )
        if self.per_device != 1:
            raise SettingError(
                f"least_crop gives pictures of several sizes: per_device must be 1, got {self.per_device}."
            )

    def _check_lags(self) -> None:
        """L_AP looks at quadrants of the picture: their sides must be longer than its lags."""
        side = self.crop
        if self.least_crop:
            side = self.least_crop // MULTIPLE * MULTIPLE or self.least_crop
        if self.losses.periodicity and side // 2 <= max(LAGS):
            name = "least_crop" if self.least_crop else "crop"
            raise SettingError(
                f"L_AP compares quadrants at lags up to {max(LAGS)} px and needs sides above {2 * max(LAGS) + 1} px, "
                f"got a {name} of {self.least_crop or self.crop} px (sides down to {side}). Give larger crops, or set "
                "--loss-periodicity to 0."
            )

    def _check_stage(self) -> None:
        foreign = [name for name, value in asdict(self.losses).items() if value and name not in STAGES[self.stage]]
        if foreign:
            raise SettingError(f"The stage {self.stage} has no loss {foreign[0]}: set --loss-{foreign[0]} to 0.")
        if self.stage == "compensation" and self.scale != FACTOR:
            raise SettingError(f"The detail network is made for a scale of {FACTOR}, got {self.scale}.")
        clean = self.stage not in ("adapters", "compensation")
        if clean and (self.degradation != "none" or self.scale != 1):
            raise SettingError(
                f"The stage {self.stage} learns from clean pictures: degradation none and scale 1, got "
                f"{self.degradation} and {self.scale}."
            )
        if self.stage != "adapters" and self.captions:
            raise SettingError(f"captions condition an adapter's training; the stage {self.stage} has none.")
        if self.gan_adaptive and self.stage not in ("decoder", "encoder"):
            raise SettingError("gan_adaptive is for the stages decoder and encoder; elsewhere the decoder is frozen.")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return as_values(self)

    @classmethod
    def from_dict(cls, values: Any) -> "TrainSettings":
        """The inverse of `as_dict`; what is left out has its default. Raises SettingError by name."""
        return from_values(cls, values)


GROUPS = {
    "the step": ("stage", "sigma", "timestep", "guidance", "sample_posterior"),
    "optimizer": (
        "rank", "alpha", "encoder_lora", "whole_layers",
        "optimizer", "learning_rate", "schedule", "warmup", "ema", "weight_decay", "clip", "steps", "batch",
        "per_device", "precision", "checkpointing", "seed",
    ),
    "pictures": ("crop", "least_crop", "scale", "degradation", "captions", "drop_condition"),
    "losses": ("fidelity", "lap_highpass", "lap_normalise", "lpips_weights", "lpips_window", "lpips_draw"),
    "GAN": ("critic", "features", "gan", "gan_learning_rate", "gan_window", "gan_adaptive"),
    "VSD": (
        "vsd_prior", "negative", "vsd_guidance", "vsd_range", "vsd_quadrants", "regulariser_learning_rate",
    ),
}  # fmt: skip
"""The fields by what they are about, for the options and the table; the nested ones have places of their own."""

NESTED = {"the step": ("rope", ""), "losses": ("losses", "loss-"), "VSD": ("prior_rope", "prior-")}
"""The nested settings of a group: the field, and how its options begin."""


MAY_CHANGE = frozenset(
    {"steps", "per_device", "checkpointing", "learning_rate", "gan_learning_rate", "regulariser_learning_rate"}
)
"""What a resumed run may change; anything else would be another training."""


def changed(old: TrainSettings, new: TrainSettings, among: Collection[str] | None = None) -> list[str]:
    """`name: old -> new` of every setting that differs: of those in `among`, or of those that may not change."""
    before, after = old.as_dict(), new.as_dict()
    names = before.keys() - MAY_CHANGE if among is None else among
    return [
        f"{name}: {before[name]} -> {after[name]}" for name in before if name in names and before[name] != after[name]
    ]
