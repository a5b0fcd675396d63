"""Inputs that several nodes share."""

import copy

from comfy_api.latest import io

from ..op4ksr_core.settings import COLOUR_FIXES, PRESETS


def advanced(given: io.Input) -> io.Input:
    """A copy that hides behind the node's advanced settings, in ComfyUI versions that have those."""
    hidden = copy.copy(given)
    if hasattr(hidden, "advanced"):
        hidden.advanced = True
    return hidden


EMBEDDED = PRESETS["embedded"]
"""What the inputs start from; the other presets' values are in the tooltips and in docs/nodes.md."""

SCALE = io.Float.Input(
    "scale", default=4.0, min=0.1, max=16.0, step=0.1, tooltip="Times the picture's size. Used where long_side is 0."
)
LONG_SIDE = io.Int.Input(
    "long_side", default=0, min=0, max=32768, tooltip="Long side of the result in px; 0 takes the scale. 4096 is 4K."
)
FACTOR = io.Combo.Input(
    "vae_factor",
    options=["16", "8", "4"],
    default="16",
    tooltip="How far the VAE compresses: 16 for OP4KSR and UltraFlux (F16), 8 for OMGSR and OSEDiff, 4 for TVT.",
)
SIGMA = io.Float.Input(
    "sigma_mid",
    default=EMBEDDED.sigma,
    min=0.005,
    max=1.0,
    step=0.005,
    tooltip="The mid-timestep. OP4KSR 0.3, OMGSR 0.505.",
)
STEPS = io.Int.Input(
    "steps", default=EMBEDDED.steps, min=1, max=100, tooltip="1 is OP4KSR; more refine in Euler steps."
)
GUIDANCE = io.Float.Input(
    "guidance",
    default=EMBEDDED.guidance,
    min=0.0,
    max=30.0,
    step=0.1,
    tooltip="FLUX.1-dev's distilled guidance; models without it ignore it.",
)
THETA = io.Float.Input(
    "theta",
    default=0.0,
    min=0.0,
    max=1_000_000.0,
    step=1.0,
    tooltip="RoPE base, plain scheme. 100 is OP4KSR's; 0 leaves the MODEL as it is.",
)
NOISE = io.Float.Input(
    "noise",
    default=EMBEDDED.noise,
    min=0.0,
    max=1.0,
    step=0.05,
    tooltip="0: the picture itself is the start (OP4KSR, OMGSR). 1: with sigma_mid's noise added, as bare FLUX "
    "or UltraFlux weights were trained.",
)
WINDOW = advanced(
    io.Int.Input(
        "window",
        default=0,
        min=0,
        max=32768,
        step=64,
        optional=True,
        tooltip="Side in px of the windows that the transformer sees, each half over the next: OMGSR's 1024 above its "
        "trained size. 0 shows it the whole picture.",
    )
)
TIMESTEP = advanced(
    io.Int.Input(
        "timestep",
        default=999,
        min=0,
        max=999,
        optional=True,
        tooltip="Of a Stable Diffusion UNet: 999 for OSEDiff, 1 for TVT. A flow model has sigma_mid in its place.",
    )
)
SEED = io.Int.Input(
    "seed",
    default=0,
    min=0,
    max=2**53 - 1,
    control_after_generate=False,
    tooltip="Draws the noise; without noise it changes nothing.",
)
COLOUR = io.Combo.Input(
    "colour",
    options=list(COLOUR_FIXES),
    default=EMBEDDED.colour,
    tooltip="Takes the reference's colours: wavelet (its low bands), adain (its mean and contrast), lab (its chroma "
    "under the result's lightness), none.",
)
COMPENSATION = io.Float.Input(
    "compensation",
    default=EMBEDDED.compensation,
    min=0.0,
    max=2.0,
    step=0.05,
    optional=True,
    tooltip="High-frequency compensation: adds fine detail that 16x compression loses. 0 leaves it out.",
)
FIDELITY = io.Float.Input(
    "fidelity",
    default=EMBEDDED.fidelity,
    min=0.0,
    max=1.0,
    step=0.05,
    tooltip="1: made small again, the result is the reference. 0: what the model drew, as it is.",
)
