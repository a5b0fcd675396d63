"""Nodes that do the whole way at once: one with few knobs, one with every setting."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.geometry import (
    FITS,
    LATENT_FACTOR,
    MAX_SCALE,
    Box,
    Fit,
    LongSide,
    Megapixels,
    Part,
    Scale,
    ShortSide,
    Size,
    Target,
)
from ..op4ksr_core.pipeline.composite import Framed
from ..op4ksr_core.pipeline.memory import GB
from ..op4ksr_core.pipeline.quality_check import Limits, run_checked
from ..op4ksr_core.pipeline.restoration import Plan, run
from ..op4ksr_core.pipeline.trial import plan_trial, without_margin
from ..op4ksr_core.settings import (
    COLOUR_FIXES,
    MAX_STRENGTH,
    PRESET_FACTORS,
    PRESETS,
    PROTECTS,
    ColourFix,
    Protect,
    UpscaleSettings,
    find_preset,
    with_strength,
    with_window,
)
from ..op4ksr_core.weights.usual_settings import choose, contradictions
from ..op4ksr_core.wishes import CONTENT_KINDS, Content, Wishes, with_wishes
from .checks import facts_of
from .comfy_host import ComfyHost, plan_frame
from .convert import to_bchw, to_image
from .detail_networks import BUNDLED, find_network, network_input
from .inputs import (
    COLOUR,
    COMPENSATION,
    CONTENT,
    CREATIVITY,
    DENOISE,
    FACTOR,
    FIDELITY,
    GUIDANCE,
    NOISE,
    PAINTED_MEANS,
    PROTECT,
    REGION,
    RESEMBLANCE,
    SCALE,
    SEED,
    SIGMA,
    STEPS,
    THETA,
    WINDOW,
    advanced,
)
from .load import newest
from .masks import PAINTED, TRIED, alpha_of, is_placeholder, part_of, region_of
from .memory import collecting
from .progress import Phases
from .schema import node_schema
from .step_nodes import rope_for
from .versions import tell_node

log = logging.getLogger("op4ksr")

MASK = io.Mask.Input("mask", optional=True, tooltip="Transparency, enlarged with the picture.")
MODELS = [
    io.Model.Input("model", optional=True, tooltip="FLUX or UltraFlux, perhaps with adapters."),
    io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to the MODEL."),
    io.Conditioning.Input("conditioning", optional=True, tooltip="The MODEL's fixed prompt."),
]
STRENGTH_MASK = io.Mask.Input(
    "strength_mask",
    optional=True,
    tooltip="Where the model may act: 1 restores, 0 keeps the enlarged picture (faces, lettering). Any size. "
    "Painted in MaskEditor: see painted_means.",
)
OUTPUTS = [
    io.Image.Output(tooltip="The large picture; with alpha where the input has four channels."),
    io.Mask.Output(tooltip="Its transparency; all 0 where the input had none."),
    io.Image.Output(display_name="before", tooltip="The input by Lanczos at the same size, to compare with."),
    io.String.Output(
        display_name="report",
        tooltip="Size, time, memory, and whether the model added a lattice, or texture in soft areas.",
    ),
    io.Mask.Output(display_name="texture map", tooltip="Where the model drew texture into soft areas, full at 8/255."),
    io.Mask.Output(display_name="protected", tooltip="What protect found, of the input's size; 0 elsewhere."),
    io.Boolean.Output(
        display_name="passed",
        tooltip="Off where the lattice check found a lattice that can be seen, or texture in soft areas.",
    ),
]


def upscaled(
    host: ComfyHost,
    image: Tensor,
    mask: Tensor | None,
    region: Tensor | None,
    target: Target,
    settings: UpscaleSettings,
    latent_factor: int,
    inspected: bool = True,
    notes: Sequence[str] = (),
    part: Part | None = None,
    rerun: bool = False,
) -> io.NodeOutput:
    """IMAGE and what goes with it -> the outputs, with a line under the node before and after.

    `region` is where the model may act (B or 1, 1, H, W); `notes` are sentences for the report; `part` alone is
    enlarged where it is given; `rerun`: what does not pass the check is run again with less strength.
    """
    pictures = to_bchw(image).clamp(0, 1)
    frame = target.frame(Size(*pictures.shape[-2:]))
    trial = None if part is None else plan_trial(frame, part, host.multiple_px)
    if trial is not None:
        frame = trial.frame
    plan = plan_frame(host, frame, len(pictures), [settings], latent_factor)
    alpha = alpha_of(image, mask)
    phases = Phases(() if settings.compensation else ("compensate",))
    device, started = comfy.model_management.get_torch_device(), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def enlarged(settings: UpscaleSettings) -> Framed:
        made = run(host, replace(plan, settings=(settings,)), pictures, phases, alpha, region, phases.show)
        return made if trial is None else without_margin(made, trial)

    tell_node(f"{plan.size.source} -> {plan.size.target}, {plan.size.tokens} tokens ...")
    with collecting() as fallbacks:
        made, check = run_checked(enlarged, settings, Limits() if inspected else None, rerun)
    phases.finish()
    about = _size_and_time(made, plan, time.perf_counter() - started, device)
    about += f", {check.words}" if check else ""
    report = "\n".join([about, *notes, *_idle_seed(settings), *made.told, *fallbacks])
    log.info("OP4KSR %s", report)
    tell_node(report)
    large, before = to_image(made.rgb), to_image(made.before)
    protected = made.lr.new_zeros(made.lr[:, 0].shape) if made.protected is None else made.protected[:, 0]
    no_map = made.rgb.new_zeros(1, 1, 1).expand(len(made.rgb), *made.rgb.shape[-2:])
    others = (before, report, check.maps if check else no_map, protected.cpu(), check is None or check.passed)
    if made.alpha is None:
        return io.NodeOutput(large, large.new_zeros(large.shape[:3]), *others)
    transparent = made.alpha.to(large)
    if image.shape[-1] == 4 and (mask is None or is_placeholder(mask, image)):
        large = torch.cat([large, transparent.movedim(1, -1)], -1)
    return io.NodeOutput(large, 1 - transparent[:, 0], *others)


def _idle_seed(settings: UpscaleSettings) -> list[str]:
    """A line where a seed was chosen and draws nothing. ComfyUI runs a node again for each new value all the same."""
    idle = settings.seed != 0 and settings.noise == 0
    return [f"The seed {settings.seed} changes nothing: these settings draw no noise."] if idle else []


def _size_and_time(made: Framed, plan: Plan, seconds: float, device: torch.device) -> str:
    tokens = f"{plan.size.tokens} token{'s' * (plan.size.tokens != 1)}"
    parts = [f"{made.frame.used} -> {made.frame.canvas} px", tokens, f"{seconds:.1f} s"]
    if len(made.rgb) > 1:
        parts.insert(0, f"{len(made.rgb)} pictures")
    if device.type == "cuda":
        parts.append(f"peak {torch.cuda.max_memory_allocated(device) / GB:.1f} GB")
    elif plan.memory:
        tenths = math.ceil(plan.memory.peak / GB * 10)  # upwards: a small picture does not need 0.0 GB
        parts.append(f"about {tenths / 10} GB at most (estimated)")
    return ", ".join(parts)


SIZE_MODES = ("long side", "short side", "scale", "megapixels", *FITS)


def target_of(mode: str, size: float, width: int, height: int, like: Tensor | None) -> Target:
    """What the node's size inputs ask for; another picture's size goes before the numbers. Raises SettingError."""
    if mode not in SIZE_MODES:
        raise SettingError(f"size_mode must be one of {', '.join(SIZE_MODES)}, got {mode!r}.")
    if like is not None:
        height, width = like.shape[1:3]
        if 0 in (height, width):
            raise ImageError("The picture at size_like is empty.")
        if mode == "scale":
            raise SettingError("size_like gives a size in px: choose another size_mode than scale, or disconnect it.")
        size = {"long side": max(height, width), "short side": min(height, width)}.get(mode, height * width / 1e6)
    if mode in FITS:
        if width < 1 or height < 1:
            raise SettingError(
                f"size_mode {mode} wants width and height (advanced settings), got {width}x{height}. "
                "Or connect a picture to size_like."
            )
        return Box(Size(height, width), cast(Fit, mode))
    if mode == "scale":
        if size > MAX_SCALE:
            raise SettingError(
                f"A scale is at most {MAX_SCALE:g}, got {size:g}. For px choose size_mode long side, for more upscale "
                "twice."
            )
        return Scale(size)
    if mode == "megapixels":
        return Megapixels(size)
    if size != round(size):
        raise SettingError(f"A {mode} is a whole number of px, got {size:g}.")
    if size <= MAX_SCALE and like is None:
        raise SettingError(f"A {mode} of {size:g} px: for {size:g} times the size choose size_mode scale.")
    return LongSide(round(size)) if mode == "long side" else ShortSide(round(size))


NOT_CONNECTED = object()


def needs_weights(preset: str) -> str:
    """What to do about a preset whose models are not connected."""
    return f"The preset {preset} needs its own weights: connect model, vae and conditioning, or choose embedded."


class UpscaleTo4K(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "UpscaleTo4K",
            "Upscale to 4K (OP4KSR)",
            ["upscale", "super resolution", "4k", "enlarge", "restore", "enhance", "sharpen", "denoise", "face"]
            + ["lettering", "photo restoration", "seedvr", "supir", "esrgan"],
            description="Picture in, 4K picture out. Without model, vae and conditioning the embedded model does it.",
            inputs=[
                io.Image.Input("image", tooltip="Any size, any number of pictures, with alpha or without."),
                io.Combo.Input(
                    "preset",
                    options=["auto", *PRESETS],
                    default="auto",
                    tooltip="Settings of the method. auto: what the adapter says it was trained for; else by the "
                    "MODEL and its VAE, and the report says why. Without a MODEL: embedded. ultraflux: bare UltraFlux "
                    "weights. omgsr: OMGSR-F with FLUX's own VAE. f2idiff: conditioned by the picture's features.",
                ),
                io.Combo.Input(
                    "size_mode",
                    options=list(SIZE_MODES),
                    default="long side",
                    tooltip="What size means. fit, crop and pad take width and height (advanced) instead: inside that "
                    "box, cut to fill it, or with transparent bars.",
                ),
                io.Float.Input(
                    "size",
                    default=4096.0,
                    min=0.01,
                    max=32768.0,
                    step=0.5,
                    tooltip="By size_mode: the long or short side in px, a factor (scale), or megapixels.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=MAX_STRENGTH,
                    step=0.05,
                    tooltip="0 keeps the picture and only enlarges it, 1 is the preset, 2 restores the most.",
                ),
                SEED,
                advanced(
                    io.Int.Input(
                        "width", default=0, min=0, max=32768, optional=True, tooltip="px, for fit, crop and pad."
                    )
                ),
                advanced(
                    io.Int.Input(
                        "height", default=0, min=0, max=32768, optional=True, tooltip="px, for fit, crop and pad."
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "colour",
                        options=["as the preset", *COLOUR_FIXES],
                        default="as the preset",
                        optional=True,
                        tooltip="Takes the input's colours: wavelet (its low bands), adain (its mean and contrast), "
                        "lab (its chroma under the result's lightness), none.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "lattice_check",
                        default=True,
                        optional=True,
                        tooltip="Look for a lattice and for texture in soft areas that the model added; report them.",
                    )
                ),
                WINDOW,
                MASK,
                STRENGTH_MASK,
                io.Image.Input("size_like", optional=True, tooltip="Takes the wanted size from this picture."),
                *MODELS,
                PROTECT,
                DENOISE,
                PAINTED_MEANS,
                REGION,
                CONTENT,
                CREATIVITY,
                RESEMBLANCE,
                advanced(
                    io.Boolean.Input(
                        "rerun",
                        default=False,
                        optional=True,
                        tooltip="Where the lattice check is not passed, run again at half the strength; the report "
                        "says so.",
                    )
                ),
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    def validate_inputs(
        cls, preset=None, model=NOT_CONNECTED, protect=None, painted_means=None, region=None, content=None
    ):
        """Before the run. A value that another node will give is None here, an input without a link is not given.
        0.3.64 does not check the choices of an optional input by itself."""
        for name, value, choices in (
            ("protect", protect, PROTECTS),
            ("painted_means", painted_means, PAINTED),
            ("region", region, TRIED),
            ("content", content, CONTENT_KINDS),
        ):
            if value is not None and value not in choices:
                return f"{name} must be one of {', '.join(choices)}, got {value!r}."
        if preset is not None and preset not in ("auto", *PRESETS):
            return f"There is no preset {preset!r}: choose auto or one of {', '.join(PRESETS)}."
        if preset not in (None, "auto", "embedded") and model is NOT_CONNECTED:
            return needs_weights(preset)
        return True

    @classmethod
    def execute(
        cls,
        image,
        preset,
        size_mode,
        size,
        strength,
        seed,
        width: int = 0,
        height: int = 0,
        colour: str = "as the preset",
        lattice_check: bool = True,
        window: int = 0,
        mask=None,
        strength_mask=None,
        size_like=None,
        model=None,
        vae=None,
        conditioning=None,
        protect: str = "nothing",
        denoise: float = 0.0,
        painted_means: str = PAINTED[0],
        region: str = TRIED[0],
        content: str = CONTENT_KINDS[0],
        creativity: float = 0.0,
        resemblance: float = 0.0,
        rerun: bool = False,
    ) -> io.NodeOutput:
        if rerun and not lattice_check:
            raise SettingError("rerun goes by the lattice check: switch lattice_check on, or rerun off.")
        facts, notes = facts_of(model, vae, conditioning), []
        if preset == "auto":
            choice = choose(facts)
            preset, settings = choice.preset, choice.settings
            notes.append(choice.reason)
        else:
            settings = find_preset(preset)
        notes += contradictions(facts, settings)
        moved = {"strength": strength != 1, "protect": protect != "nothing", "denoise": denoise != 0}
        given = [name for name, is_moved in moved.items() if is_moved]
        wishes = Wishes(cast(Content, content), creativity, resemblance)
        settings, told = with_wishes(settings, wishes, preset, given)
        notes += told
        if "protect" in given:
            settings = replace(settings, protect=cast(Protect, protect))
        if "denoise" in given:
            settings = replace(settings, denoise=denoise)
        settings = with_strength(settings, strength)
        if model is None and preset != "embedded":
            raise SettingError(needs_weights(preset))
        settings = with_window(replace(settings, seed=seed), window)
        if colour != "as the preset":
            settings = replace(settings, colour=cast(ColourFix, colour))
        if preset == "embedded" and model is not None:
            settings = replace(settings, rope=None)  # as the connected MODEL has it
        target = target_of(size_mode, size, width, height, size_like)
        host = ComfyHost.find(model, conditioning, vae)
        latent_factor = PRESET_FACTORS.get(preset, LATENT_FACTOR)
        may_act = region_of(image, strength_mask, painted_means)
        part = part_of(target.frame(Size(*image.shape[1:3])), strength_mask, region)
        return upscaled(host, image, mask, may_act, target, settings, latent_factor, lattice_check, notes, part, rerun)


class UpscaleAllSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        hidden = (SIGMA, STEPS, GUIDANCE, THETA, COLOUR, NOISE, FACTOR)
        sigma, steps, guidance, theta, colour, noise, factor = map(advanced, hidden)
        return node_schema(
            "Upscale",
            "Upscale, all settings (OP4KSR)",
            ["upscale", "super resolution", "4k", "enlarge", "restore", "enhance", "denoise", "face"],
            description="As Upscale to 4K, with each setting of the method by itself in place of a preset.",
            inputs=[
                io.Image.Input("image", tooltip="Any size, any number of pictures, with alpha or without."),
                io.Int.Input(
                    "long_side",
                    default=4096,
                    min=0,
                    max=32768,
                    tooltip="Long side of the result in px; 0 takes the scale.",
                ),
                SCALE,
                sigma,
                steps,
                guidance,
                theta,
                colour,
                FIDELITY,
                noise,
                SEED,
                factor,
                MASK,
                *MODELS,
                COMPENSATION,
                STRENGTH_MASK,
                WINDOW,
                PROTECT,
                DENOISE,
                PAINTED_MEANS,
                network_input(),
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    def execute(
        cls,
        image,
        long_side,
        scale,
        sigma_mid,
        steps,
        guidance,
        theta,
        colour,
        fidelity,
        noise,
        seed,
        vae_factor,
        mask=None,
        model=None,
        vae=None,
        conditioning=None,
        compensation=0.0,  # of graphs from before it was there
        strength_mask=None,
        window: int = 0,
        protect: str = "nothing",
        denoise: float = 0.0,
        painted_means: str = PAINTED[0],
        detail_network: str = BUNDLED,
    ) -> io.NodeOutput:
        host = replace(ComfyHost.find(model, conditioning, vae), detail_network=find_network(detail_network))
        settings = UpscaleSettings(sigma_mid, steps, guidance, noise, seed, None, colour, fidelity, compensation)
        settings = replace(
            settings, rope=rope_for(theta), window=window, protect=cast(Protect, protect), denoise=denoise
        )
        target = LongSide(long_side) if long_side else Scale(scale)
        region = region_of(image, strength_mask, painted_means)
        return upscaled(host, image, mask, region, target, settings, int(vae_factor))

    @classmethod
    def fingerprint_inputs(cls, detail_network: str = BUNDLED, **_: object) -> float:
        """Changes with the file, so that a newly trained network is read again."""
        return newest(find_network(detail_network))
