"""Every choice of the method, spelled once: settings, presets, and what each may be. No torch.

The command line, the nodes, the settings files and the documents' tables take their choices, defaults, ranges and texts
from here (`declared.py`).
"""

import numbers
from dataclasses import dataclass, replace
from typing import Literal, get_args

from .declared import check, find_setting, setting
from .declared import check_choice as check_choice
from .declared import check_number as check_number
from .declared import check_range as check_range
from .declared import near as near
from .errors import SettingError

Scheme = Literal["plain", "yarn", "resonance-yarn"]
ColourFix = Literal["none", "wavelet", "adain", "lab"]
WindowWeights = Literal["linear", "gaussian"]
Head = Literal["centered", "partitioned"]
Protect = Literal["nothing", "lettering", "faces", "both"]
VaePass = Literal["whole", "strips", "frugal"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math", "fa3", "fa4"]

SCHEMES: tuple[str, ...] = get_args(Scheme)
COLOUR_FIXES: tuple[str, ...] = get_args(ColourFix)
WINDOW_WEIGHTS: tuple[str, ...] = get_args(WindowWeights)
HEADS: tuple[str, ...] = ("auto", *get_args(Head))
"""F16 decoder heads; auto takes the one that is in register with the picture."""

PROTECTS: tuple[str, ...] = get_args(Protect)
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

NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
    "lowres, over-smooth"
)
"""What VSD guides away from (OSEDiff, arXiv 2406.08177; its README's training command)."""


OMGSR_SIGMA = 0.5051124
"""OMGSR-F's mid-timestep: number 244 of 999 under FLUX's shift of 1.15 (its code). At 1000 sigma a time embedding tells
0.5051 from it."""


def check_seed(what: str, value: int) -> int:
    """Returns the seed if torch's generators take it, else raises SettingError."""
    if not isinstance(value, numbers.Integral) or not 0 <= value <= MAX_SEED:
        raise SettingError(f"{what} must lie in [0, 2^64 - 1], got {value}.")
    return value


def check_sigma(sigma: float) -> float:
    """Returns sigma if it lies in (0, 1], else raises SettingError."""
    find_setting(UpscaleSettings, "sigma").check(sigma)
    return sigma


@dataclass(frozen=True)
class RopeSettings:
    """How token positions become phases (rotary position embedding). Raises SettingError on a value out of range."""

    theta: float = setting(100.0, "RoPE base. OP4KSR: 100 (frequency rescaling); FLUX: 10000.", above=1)

    scheme: Scheme = setting("plain", "How positions beyond the trained ones are placed. UltraFlux: resonance-yarn.")

    mscale: float | None = setting(
        None,
        "Factor on cos and sin. Without it the scheme's own: 1 for plain; 0.1 ln s + 1 for the yarn schemes where an "
        "axis is s times as long as the trained tokens.",
        above=0,
    )

    base_tokens: int = setting(64, "Trained tokens per axis. UltraFlux: 64, 2048 px of 32.", low=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class UpscaleSettings:
    """How one picture is restored. Sizes are arguments of the call. Raises SettingError on a value out of range."""

    sigma: float = setting(0.3, "The mid-timestep. OP4KSR 0.3, OMGSR 0.505.", above=0, high=1, step=0.005)
    """How far along the flow the low-resolution latent is taken to be."""

    steps: int = setting(1, "1 is OP4KSR; more refine in Euler steps.", low=1, high=MAX_STEPS, widget_high=100)
    """Evaluations of the transformer; several are image-to-image refinement."""

    guidance: float = setting(
        1.0, "FLUX.1-dev's distilled guidance; models without it ignore it.", low=0, step=0.1, widget_high=30
    )

    noise: float = setting(
        0.0,
        "0: the picture itself is the start (OP4KSR, OMGSR). 1: with sigma_mid's noise added, as bare FLUX or "
        "UltraFlux weights were trained.",
        low=0,
        high=1,
        step=0.05,
    )
    """Share of sigma's own noise added to the latent."""

    seed: int = setting(
        0, "Draws the noise; without noise it changes nothing.", low=0, high=MAX_SEED, widget_high=2**53 - 1
    )

    posterior_seed: int | None = setting(
        None, "Samples the encoder's posterior; without it, its mode.", low=0, high=MAX_SEED
    )

    colour: ColourFix = setting(
        "none",
        "Takes the input's colours: wavelet (its low bands), adain (its mean and contrast), lab (its chroma under the "
        "result's lightness), none.",
        spellings=("color",),
    )

    fidelity: float = setting(
        1.0,
        "1: made small again, the result is the input. 0: what the model drew, as it is. Above 0 edges do not ring "
        "either.",
        low=0,
        high=1,
        step=0.05,
    )
    """Strength of the back-projection."""

    compensation: float = setting(
        0.0,
        "High-frequency compensation: adds fine detail that 16x compression loses. 0 leaves it out.",
        low=0,
        high=MAX_COMPENSATION,
        step=0.05,
    )

    rope: RopeSettings | None = setting(RopeSettings(), "How tokens are placed; None keeps what the model came with.")

    window: int = setting(
        0,
        "Side in px of the windows that the transformer sees, which overlap by half; OMGSR: 1024 above its "
        "trained size. 0 shows it the whole picture.",
        low=MIN_WINDOW,
        high=MAX_WINDOW,
        or_zero=True,
        unit="px",
        step=64,
    )
    """As OMGSR's reference runs at large sizes. The VAE always sees all of the picture."""

    timestep: int = setting(
        999,
        "Of a Stable Diffusion UNet: 999 for OSEDiff, 1 for TVT. A flow model has sigma_mid in its place.",
        low=0,
        high=999,
    )

    window_overlap: int = setting(
        0,
        "px that windows share; 0 is half a window. OSEDiff's tiles: windows of 768 px that share 256.",
        low=0,
        high=MAX_WINDOW,
        unit="px",
    )

    window_weights: WindowWeights = setting(
        "linear", "How windows are mixed where they overlap: by a linear ramp, or by OSEDiff's Gaussian."
    )

    denoise: float = setting(
        0.0,
        "Removes noise and JPEG artefacts from the input first. 0 keeps its grain, 1 removes all that it finds.",
        low=0,
        high=1,
        step=0.05,
    )

    protect: Protect = setting(
        "nothing", "Finds lettering, faces or both, and changes them less: 40 % of the change is left there."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.window and self.window_overlap >= self.window:
            raise SettingError(
                f"Windows share less than their side of {self.window} px, got an overlap of {self.window_overlap} px."
            )


@dataclass(frozen=True)
class Execution:
    """How the models are run. None of it changes the picture by more than docs/performance.md says."""

    fp8: bool = setting(False, "Transformer weights in 8 bits: half the memory, small errors.")
    """Its products too where the card can."""

    compiled: bool = setting(False, "torch.compile: minutes once, then faster on a GPU.", option="compile")
    """The transformer's blocks, and the VAE's norms in its whole pass."""

    attention: Attention = setting(
        "auto", "The transformer's attention kernel; auto is PyTorch's choice, math the slow twin."
    )

    vae_pass: VaePass | None = setting(
        None,
        "The VAE in one pass, in strips of rows, or with the least memory and twice the time; the same picture. auto: "
        "by the memory plan.",
        none_word="auto",
    )

    lean: bool = setting(
        True,
        "diffusers' own layers: slower, more memory, the same picture.",
        option="plain-layers",
        inverted=True,
    )
    """False runs diffusers' own layers."""

    def __post_init__(self) -> None:
        check(self)


_SD = UpscaleSettings(
    timestep=999,
    posterior_seed=0,
    colour="adain",
    fidelity=0.0,
    rope=None,
    window_overlap=256,
    window_weights="gaussian",
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
    # OMGSR-F (arXiv 2508.08227): FLUX.1-dev with the F8 VAE. As in its code, the posterior is sampled, the colours are
    # AdaIN's, and above 1024 px the transformer sees tiles of that size, half over each other, mixed by a Gaussian.
    "omgsr": UpscaleSettings(
        sigma=OMGSR_SIGMA,
        posterior_seed=0,
        colour="adain",
        fidelity=0.0,
        rope=RopeSettings(theta=10_000.0),
        window=1024,
        window_weights="gaussian",
    ),
    # OSEDiff (arXiv 2406.08177): Stable Diffusion 2.1-base at its last timestep, the posterior sampled, AdaIN. Windows,
    # where they are asked for, share 32 latent px in its code: 256 px here, 128 px under TVT's 4x VAE.
    "osediff": _SD,
    # TVT (arXiv 2507.20291): its VAE-D4 and CE-UNet at timestep 1.
    "tvt": replace(_SD, timestep=1, window_overlap=128),
    # F2IDiff-SR: OSEDiff's plan with DINOv2's features of each patch in the prompt's place, so in windows of the 256 px
    # that it trains on. The paper does not state its timestep.
    "f2idiff": replace(_SD, window=256, window_overlap=0),
}
"""Settings by name; each means the same on the command line, in Python and in a graph."""


PRESET_FACTORS = {"omgsr": 8, "osediff": 8, "tvt": 4, "f2idiff": 8}
"""VAE factor of the presets whose VAE is not F16."""


def with_strength(settings: UpscaleSettings, strength: float) -> UpscaleSettings:
    """One knob from keeping the picture to restoring it: 0 keeps its own band and adds nothing, 1 is the settings.

    In between, and up to 2, compensation grows with it and fidelity (how much of the small picture is put back) falls
    with it (figures in docs/results.md). Sigma stays the one that the model was trained for. Raises SettingError
    outside [0, 2].
    """
    check_range("Strength", strength, 0, MAX_STRENGTH)
    kept = settings.fidelity
    kept = kept * (2 - strength) if strength > 1 else kept + (1 - strength) * (1 - kept)
    return replace(settings, fidelity=kept, compensation=min(MAX_COMPENSATION, strength * settings.compensation))


def with_window(settings: UpscaleSettings, window: int) -> UpscaleSettings:
    """The settings in windows of another side, in px; 0 is the whole picture. Windows no larger than what the settings
    let them share overlap by half."""
    overlap = settings.window_overlap if window > settings.window_overlap else 0
    return replace(settings, window=window, window_overlap=overlap)


def find_preset(name: str) -> UpscaleSettings:
    """The preset of that name. Raises SettingError."""
    if name not in PRESETS:
        raise SettingError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.{near(name, PRESETS)}")
    return PRESETS[name]
