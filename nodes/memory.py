"""What a phase will need, said in the log before it starts, and refused where it cannot fit."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE

from ..op4ksr_core.errors import MemoryPlanError
from ..op4ksr_core.model.vae_passes import FRUGAL, WHOLE, passes_of
from ..op4ksr_core.pipeline.memory import GB, MARGIN, MemoryPlan, transformer_work, vae_work
from .versions import out_of_memory, tell_node

log = logging.getLogger("op4ksr")

Result = TypeVar("Result")

# ComfyUI's layers hold more at once than the core's lean ones. Full-width F16 FLUX VAE, float32, CPU: 1.22 to 1.31
# times the core's estimate at 1024 and 2048 px.
_STOCK_LAYERS = 1.35


def vae_channels(stage: Any) -> tuple[int, ...]:
    """Widths of the levels of a VAE in ComfyUI's layout, from the picture inwards."""
    return tuple(level.block[-1].out_channels for level in stage.encoder.down)


def vae_bytes(
    stage: Any, pixels: int, dtype: torch.dtype, latent_factor: int, decoder: bool, how: str = WHOLE
) -> float:
    """Working memory of one encode or decode of `pixels` of picture, weights not counted."""
    itemsize = comfy.model_management.dtype_size(dtype)
    layers = _STOCK_LAYERS if how == WHOLE else 1.0
    return layers * MARGIN * vae_work(pixels, vae_channels(stage), itemsize, latent_factor, decoder, how)


def vae_passes(vae: VAE, pixels: int, decoder: bool) -> list[tuple[str, float]]:
    """How one picture can be encoded or decoded here: (one of the core's `settings.PASSES`, its working bytes).

    First the fastest of the device's passes whose work fits into its memory beside the weights and what ComfyUI
    reserves, else the leanest; then the leaner ones, for when memory runs out all the same.
    """
    total = comfy.model_management.get_total_memory(vae.device)
    room = total - vae.patcher.model_size() - comfy.model_management.extra_reserved_memory()
    stage, dtype, latent_factor = vae.first_stage_model, vae.vae_dtype, vae.downscale_ratio
    ways = [(how, vae_bytes(stage, pixels, dtype, latent_factor, decoder, how)) for how in passes_of(vae.device)]
    fitting = [number for number, (_, work) in enumerate(ways) if work <= room]
    return ways[fitting[0] if fitting else -1 :]


def tell_pass(phase: str, how: str, device: torch.device) -> None:
    """Says in the log where a VAE does not run in the fastest way."""
    fastest = passes_of(device)[0]
    if how != fastest:
        slower = "twice the time" if how == FRUGAL else "slower"
        tell(f"{phase}: {fastest!r} does not fit the device, so the VAE runs {how!r}: {slower}, same picture")


def vae_phase(vae: VAE, pixels: int, decoder: bool) -> tuple[float, float]:
    """(working bytes, weight bytes) of encoding or decoding one picture."""
    return vae_passes(vae, pixels, decoder)[0][1], float(vae.patcher.model_size())


def transformer_phase(model: ModelPatcher, tokens: int) -> tuple[float, float]:
    """(working bytes, weight bytes) of one evaluation of the transformer on one picture.

    Working bytes are 0, which is shown as unknown, for models whose config names no width.
    """
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    width = model.model.model_config.unet_config.get("hidden_size", 0)
    work = MARGIN * transformer_work(tokens, width, comfy.model_management.dtype_size(dtype))
    return work, float(model.model_size())


Phases = dict[str, tuple[float, float]]
"""Name of a phase -> its (working bytes, weight bytes)."""


def plan_phases(what: str, device: torch.device, phases: Phases) -> MemoryPlan:
    """The phases of one picture as the core's plan; logged, and refused as by `preflight`."""
    preflight(what, device, phases)
    work = {name: bytes_of_work for name, (bytes_of_work, _) in phases.items()}
    return MemoryPlan(
        encode=work["encode"],
        transform=work["transform"],
        decode=work["decode"],
        weights=phases["encode"][1] + phases["transform"][1],
        available=comfy.model_management.get_total_memory(device),
        residency="comfyui",
        peak=max(work + held for work, held in phases.values()),
    )


def preflight(what: str, device: torch.device, phases: Phases) -> None:
    """Logs a line per call; raises MemoryPlanError where a phase's work alone exceeds the whole device.

    Weights may be offloaded by ComfyUI, so they are shown but not refused.
    """
    total = comfy.model_management.get_total_memory(device)
    free = comfy.model_management.get_free_memory(device)
    told = {name: f"{work / GB:.1f} GB" if work else "work not known" for name, (work, _) in phases.items()}
    parts = ", ".join(f"{name} {told[name]} + weights {held / GB:.1f} GB" for name, (_, held) in phases.items())
    line = f"{what}: {parts}; {free / GB:.1f} GB of {total / GB:.1f} GB free on {device}"
    if max(work for work, _ in phases.values()) > total:
        raise MemoryPlanError(f"This does not fit. {line}. Lower scale or long_side.")
    log.info("OP4KSR memory plan, estimated, %s", line)


_told: ContextVar[list[str] | None] = ContextVar("told", default=None)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """What `tell` says meanwhile, each line once."""
    lines: list[str] = []
    token = _told.set(lines)
    try:
        yield lines
    finally:
        _told.reset(token)


def tell(text: str) -> None:
    """A line in the log, as a warning, and under the node that runs."""
    log.warning("OP4KSR %s", text)
    tell_node(text)
    lines = _told.get()
    if lines is not None and text not in lines:
        lines.append(text)


def until_it_fits(attempts: Sequence[tuple[str, Callable[[], Result]]], what: str, device: torch.device) -> Result:
    """The first attempt's result; where memory runs out, all models leave the device and the next attempt follows.

    Each (name, call) works on the whole picture. Raises MemoryPlanError where none fits, and any other error as it is.
    """
    for number, (name, call) in enumerate(attempts):
        if number:
            tell(f"{what}: memory ran out on {device}; freed it, trying again ({name})")
            comfy.model_management.free_memory(1e30, device)
            comfy.model_management.soft_empty_cache()
        try:
            return call()
        except Exception as error:
            if not out_of_memory(error):
                raise
        # What the failed attempt held is gone by here, with its exception.
    raise MemoryPlanError(
        f"Memory ran out on {device} ({what}), also after freeing it. Lower scale or long_side, or close other "
        "programs. Overlapping tiles are not used: they change colours and make seams."
    )
