"""Every choice of the method, spelled once: settings, presets, and what each may be. No torch.

The command line, the nodes, the configuration files and the help texts take their choices, defaults and ranges from
here.
"""

import difflib
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from .errors import SettingError

Scheme = Literal["plain", "yarn", "resonance-yarn"]
ColourFix = Literal["none", "wavelet", "adain", "lab"]
WindowWeights = Literal["linear", "gaussian"]
Head = Literal["centered", "partitioned"]
VaePass = Literal["whole", "strips", "frugal"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math", "fa3", "fa4"]

SCHEMES: tuple[str, ...] = get_args(Scheme)
COLOUR_FIXES: tuple[str, ...] = get_args(ColourFix)
WINDOW_WEIGHTS: tuple[str, ...] = get_args(WindowWeights)
HEADS: tuple[str, ...] = get_args(Head)
PASSES: tuple[str, ...] = get_args(VaePass)
ATTENTIONS: tuple[str, ...] = get_args(Attention)

MAX_COMPENSATION = 2.0
MAX_STRENGTH = 2.0
MAX_STEPS = 1000
MIN_WINDOW, MAX_WINDOW = 256, 32_768
MAX_SEED = 2**64 - 1
"""The largest seed that torch's generators take."""

POSITIVE_PROMPT = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
"""The fixed prompt (S3Diff, arXiv 2409.17058)."""


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns the value if it is one of the choices, else raises SettingError."""
    if value not in choices:
        raise SettingError(f"{what} must be one of {', '.join(choices)}, got {value!r}.{near(value, choices)}")
    return value


def near(value: str, choices: Iterable[str]) -> str:
    """`Did you mean ...?` where a choice is spelled alike, else nothing."""
    found = difflib.get_close_matches(str(value), list(choices), 1)
    return f" Did you mean {found[0]}?" if found else ""


def check_number(what: str, value: float) -> float:
    """Returns the value if it is a number, NaN and infinity among them, else raises SettingError."""
    if not isinstance(value, numbers.Real):
        raise SettingError(f"{what} must be a number, got {value!r}.")
    return value


def check_range(what: str, value: float, low: float, high: float) -> float:
    """Returns the number if it lies in [low, high], else raises SettingError (NaN lies nowhere)."""
    check_number(what, value)
    if not low <= value <= high:
        raise SettingError(f"{what} must lie in [{low:g}, {high:g}], got {value}.")
    return value


def check_seed(what: str, value: int) -> int:
    """Returns the seed if torch's generators take it, else raises SettingError."""
    if not isinstance(value, numbers.Integral) or not 0 <= value <= MAX_SEED:
        raise SettingError(f"{what} must lie in [0, 2^64 - 1], got {value}.")
    return value


def check_sigma(sigma: float) -> float:
    """Returns sigma if it lies in (0, 1], else raises SettingError."""
    check_number("Sigma", sigma)
    if not 0 < sigma <= 1:
        raise SettingError(f"Sigma must be above 0 and at most 1 (OP4KSR: 0.3), got {sigma}.")
    return sigma


@dataclass(frozen=True)
class RopeSettings:
    """How token positions become phases (rotary position embedding)."""

    theta: float = 100.0
    """Base of the frequencies, above 1. OP4KSR: 100 (RoPE frequency rescaling); FLUX: 10,000."""

    scheme: Scheme = "plain"
    """How positions beyond the trained ones are placed. UltraFlux: `resonance-yarn`."""

    mscale: float | None = None
    """Factor on cos and sin, above 0. None: the scheme's own, 1 for `plain`, 0.1 ln s + 1 for the yarn schemes where an
    axis is s times as long as base_tokens."""

    base_tokens: int = 64
    """Trained tokens per axis, 1 or more. UltraFlux: 2048 px / 32."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.theta) or self.theta <= 1:
            raise SettingError(f"RoPE theta must be a finite number above 1 (10..10000 is usual), got {self.theta}.")
        check_choice("RoPE scheme", self.scheme, SCHEMES)
        if self.mscale is not None and not (math.isfinite(self.mscale) and self.mscale > 0):
            raise SettingError(f"RoPE mscale must be a finite number above 0, or None, got {self.mscale}.")
        if self.base_tokens < 1:
            raise SettingError(f"RoPE base tokens must be at least 1, got {self.base_tokens}.")


@dataclass(frozen=True)
class UpscaleSettings:
    """How one picture is restored. Sizes are arguments of the call. Raises SettingError on a value out of range."""

    sigma: float = 0.3
    """Mid-timestep, in (0, 1]: how far along the flow the low-resolution latent is taken to be."""

    steps: int = 1
    """Evaluations of the transformer, 1 or more. 1 is OP4KSR; more are image-to-image refinement."""

    guidance: float = 1.0
    """FLUX.1-dev's distilled guidance, 0 or more; models without that input ignore it."""

    noise: float = 0.0
    """Share of sigma's own noise added to the latent, in [0, 1]. 0 is OP4KSR, 1 is image to image."""

    seed: int = 0
    """Draws the noise; without noise it changes nothing."""

    posterior_seed: int | None = None
    """Samples the encoder's posterior; None takes its mode."""

    colour: ColourFix = "none"
    """Whose colours the result takes. The input's: `wavelet` its low bands, `adain` its mean and contrast, `lab` its
    chroma under the result's lightness."""

    fidelity: float = 1.0
    """Back-projection, in [0, 1]: 1 keeps the input's own band exactly."""

    compensation: float = 0.0
    """Strength of the high-frequency compensation, in [0, 2]; 0 leaves it out."""

    rope: RopeSettings | None = field(default_factory=RopeSettings)
    """How tokens are placed; None keeps what the model came with."""

    window: int = 0
    """Side in px of the windows that the transformer sees one by one, each half over the next, as OMGSR's reference
    runs at large sizes; 0 shows it the whole picture. The VAE always sees all of it."""

    timestep: int = 999
    """Of 0 to 999: where the UNets of Stable Diffusion's families run. OSEDiff: 999; TVT: 1. A flow ignores it."""

    window_overlap: int = 0
    """px that windows share; 0 is half a window. OSEDiff's tiles: windows of 768 px that share 256."""

    window_weights: WindowWeights = "linear"
    """How windows are mixed where they overlap: by a linear ramp, or by OSEDiff's Gaussian."""

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_range("The timestep", self.timestep, 0, 999)
        check_range("The windows' overlap", self.window_overlap, 0, MAX_WINDOW)
        check_choice("The windows' weights", self.window_weights, WINDOW_WEIGHTS)
        if self.window and self.window_overlap >= self.window:
            raise SettingError(
                f"Windows share less than their side of {self.window} px, got an overlap of {self.window_overlap} px."
            )
        check_range("Steps", self.steps, 1, MAX_STEPS)
        check_number("Guidance", self.guidance)
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise SettingError(f"Guidance must be a finite number of at least 0, got {self.guidance}.")
        check_range("Noise (OP4KSR: 0, image to image: 1)", self.noise, 0, 1)
        check_seed("The seed", self.seed)
        if self.posterior_seed is not None:
            check_seed("The posterior's seed", self.posterior_seed)
        check_choice("Colour fix", self.colour, COLOUR_FIXES)
        check_range("Fidelity", self.fidelity, 0, 1)
        check_range("Compensation", self.compensation, 0, MAX_COMPENSATION)
        if self.window != 0 and not MIN_WINDOW <= self.window <= MAX_WINDOW:
            raise SettingError(
                f"The window must be 0 (the whole picture) or {MIN_WINDOW} to {MAX_WINDOW} px, got {self.window}."
            )


@dataclass(frozen=True)
class Execution:
    """How the models are run. None of it changes the picture by more than docs/performance.md says."""

    fp8: bool = False
    """The transformer's weights in 8 bits, and its products too where the card can."""

    compiled: bool = False
    """torch.compile, which takes minutes at first: the transformer's blocks, and the VAE's norms in its whole pass."""

    attention: Attention = "auto"
    """The transformer's attention kernel; `auto` is PyTorch's choice, `math` the slow twin."""

    vae_pass: VaePass | None = None
    """The VAE in one pass, in strips of rows, or with the least memory and twice the time; the same picture. None: by
    the memory plan."""

    lean: bool = True
    """False runs diffusers' own layers: more time and memory for the same picture."""

    def __post_init__(self) -> None:
        check_choice("Attention", self.attention, ATTENTIONS)
        if self.vae_pass is not None:
            check_choice("The VAE's pass", self.vae_pass, PASSES)


_SD = UpscaleSettings(
    timestep=999, posterior_seed=0, colour="adain", fidelity=0.0, rope=None, window_weights="gaussian"
)

PRESETS: dict[str, UpscaleSettings] = {
    # The bundled small model and its detail network. Fidelity: chosen among 0.3 to 0.7 by detail, right and PSNR
    # on 40 RealSR pairs (see its card): less loses PSNR, more brings the small picture's blur
    # back. The wavelet fix removes the tint that the decoder leaves.
    "embedded": UpscaleSettings(colour="wavelet", fidelity=0.3, compensation=1.0),
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
    # OSEDiff (arXiv 2406.08177): Stable Diffusion 2.1-base at its last timestep, the posterior sampled, AdaIN.
    "osediff": _SD,
    # TVT (arXiv 2507.20291): its VAE-D4 and CE-UNet at timestep 1.
    "tvt": replace(_SD, timestep=1),
    # F2IDiff-SR: OSEDiff's plan with DINOv2's features in the prompt's place. The paper does not state its timestep.
    "f2idiff": _SD,
}
"""Settings by name; each means the same on the command line, in Python and in a graph."""


PRESET_FACTORS = {"omgsr": 8, "osediff": 8, "tvt": 4, "f2idiff": 8}
"""VAE factor of the presets whose VAE is not F16."""


def with_strength(settings: UpscaleSettings, strength: float) -> UpscaleSettings:
    """One knob from keeping the picture to restoring it: 0 keeps its own band and adds nothing, 1 is the settings.

    In between, and up to 2, compensation grows with it and fidelity (how much of the small picture is put back) falls
    with it (figures in docs/evaluation.md). Sigma stays the one that the model was trained for. Raises SettingError
    outside [0, 2].
    """
    check_range("Strength", strength, 0, MAX_STRENGTH)
    kept = settings.fidelity * (2 - strength) if strength > 1 else 1 - strength * (1 - settings.fidelity)
    return replace(settings, fidelity=kept, compensation=min(MAX_COMPENSATION, strength * settings.compensation))


def find_preset(name: str) -> UpscaleSettings:
    """The preset of that name. Raises SettingError."""
    if name not in PRESETS:
        raise SettingError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.{near(name, PRESETS)}")
    return PRESETS[name]
