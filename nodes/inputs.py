"""Inputs that several nodes share."""

import copy
from typing import Any

from comfy_api.latest import io

from ..op4ksr_core.declared import find_setting
from ..op4ksr_core.pipeline.quality_check import Limits
from ..op4ksr_core.settings import PRESETS, UpscaleSettings
from ..op4ksr_core.wishes import Wishes
from .masks import PAINTED, TRIED


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


def setting_input(
    field: str, name: str = "", of: UpscaleSettings | Wishes | Limits = EMBEDDED, **changes: Any
) -> io.Input:
    """The input of a setting, with its value in `of`, its choices or its range and step, and its help."""
    one = find_setting(type(of), field)
    if one.choices:
        about = {"options": list(one.choices), "default": getattr(of, field), "tooltip": one.help}
        return io.Combo.Input(name or field, **about | changes)
    about = {
        "default": getattr(of, field),
        "min": one.widget_low,
        "max": one.high if one.widget_high is None else one.widget_high,
        "step": one.step,
        "tooltip": one.help,
    }
    kind = io.Int if one.kind is int else io.Float
    return kind.Input(name or field, **about | changes)


SIGMA = setting_input("sigma", "sigma_mid")
STEPS = setting_input("steps")
GUIDANCE = setting_input("guidance")
NOISE = setting_input("noise")
WINDOW = advanced(setting_input("window", optional=True))
TIMESTEP = advanced(setting_input("timestep", optional=True))
SEED = setting_input("seed", control_after_generate=False)
COMPENSATION = setting_input("compensation", optional=True)
FIDELITY = setting_input(
    "fidelity", tooltip="1: made small again, the result is the reference. 0: what the model drew, as it is."
)
COLOUR = setting_input(
    "colour",
    tooltip="Takes the reference's colours: wavelet (its low bands), adain (its mean and contrast), lab (its chroma "
    "under the result's lightness), none.",
)
DENOISE = setting_input("denoise", optional=True)
PROTECT = setting_input("protect", optional=True)
PAINTED_MEANS = advanced(
    io.Combo.Input(
        "painted_means",
        options=list(PAINTED),
        default=PAINTED[0],
        optional=True,
        tooltip="What the painted places of strength_mask mean. keep there: for MaskEditor, paint what must stay as it "
        "is.",
    )
)
CONTENT = setting_input("content", of=Wishes(), optional=True)
CREATIVITY = setting_input("creativity", of=Wishes(), optional=True)
RESEMBLANCE = setting_input("resemblance", of=Wishes(), optional=True)
REGION = io.Combo.Input(
    "region",
    options=list(TRIED),
    default=TRIED[0],
    optional=True,
    tooltip="Try a part first, in seconds: the middle, or the box around what is painted in strength_mask. off: the "
    "whole picture.",
)
THETA = io.Float.Input(
    "theta",
    default=0.0,
    min=0.0,
    max=1_000_000.0,
    step=1.0,
    tooltip="RoPE base, plain scheme. 100 is OP4KSR's; 0 leaves the MODEL as it is.",
)
"""A node's own: 0 is no value of RopeSettings."""
