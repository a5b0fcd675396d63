"""Named settings as plain values."""

import math
from dataclasses import dataclass, field

from .errors import SettingError
from .model.compensation import check_strength
from .model.flow import check_noise, check_sigma
from .model.rope import RopeSettings
from .picture.colour import FIXES


@dataclass(frozen=True)
class UpscaleSettings:
    """How one picture is restored; sizes are arguments of the call.

    sigma: mid-timestep in (0, 1]. steps: evaluations of the transformer, 1 or more. guidance: FLUX's
    distilled guidance, at least 0, ignored by models without it. noise: how much of sigma's own noise is added
    to the picture's latent, in [0, 1]; 0 is OP4KSR. seed: None takes the encoder's mode and draws noise with
    seed 0, a number samples the posterior and draws noise with itself. colour: one of colour.FIXES. fidelity:
    back-projection in [0, 1]. compensation: strength of the high-frequency compensation in [0, 2]; 0 leaves it out.
    """

    sigma: float = 0.3
    steps: int = 1
    guidance: float = 1.0
    noise: float = 0.0
    seed: int | None = None
    colour: str = "none"
    fidelity: float = 1.0
    compensation: float = 0.0
    rope: RopeSettings = field(default_factory=RopeSettings)

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.steps < 1:
            raise SettingError(f"Steps must be at least 1, got {self.steps}.")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise SettingError(f"Guidance must be a finite number of at least 0, got {self.guidance}.")
        check_noise(self.noise)
        if self.seed is not None and self.seed < 0:
            raise SettingError(f"The seed must be at least 0, got {self.seed}.")
        if self.colour not in FIXES:
            raise SettingError(f"Colour fix must be one of {', '.join(FIXES)}, got {self.colour!r}.")
        if not 0 <= self.fidelity <= 1:
            raise SettingError(f"Fidelity must lie in [0, 1], got {self.fidelity}.")
        check_strength(self.compensation)


PRESETS = {
    # The bundled small model, trained through the back-projection. Of fidelity 1, 0.9 and 0.8 the last is best in all
    # five metrics of benchmarks/bench_realsr.py; the wavelet fix takes away the tint that the model leaves.
    # The compensation was trained behind this model and is better in all five, too.
    "embedded": UpscaleSettings(colour="wavelet", fidelity=0.8, compensation=1.0),
    # The paper's settings (arXiv 2605.13457): plain RoPE at theta 100, one step from 0.3.
    "op4ksr": UpscaleSettings(colour="wavelet", fidelity=0.0),
    # Bare UltraFlux weights as image-to-image refinement (arXiv 2511.18050): its own embedding, several steps, from the
    # noisy state that they were trained on. Not tried on the published weights.
    "ultraflux": UpscaleSettings(
        steps=8,
        guidance=4.0,
        noise=1.0,
        colour="wavelet",
        fidelity=0.0,
        rope=RopeSettings(theta=10_000.0, scheme="resonance-yarn"),
    ),
    # OMGSR-F (arXiv 2508.08227): FLUX.1-dev at its trained sizes with the F8 VAE.
    "omgsr": UpscaleSettings(sigma=0.5051, colour="wavelet", fidelity=0.0, rope=RopeSettings(theta=10_000.0)),
}

POSITIVE_PROMPT = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
"""The fixed prompt (S3Diff, arXiv 2409.17058)."""
