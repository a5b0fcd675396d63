"""Peak memory, estimated before the work starts, and what follows from it."""

import logging
from dataclasses import dataclass

import torch

from .errors import MemoryPlanError
from .geometry import Plan

log = logging.getLogger("op4ksr")

GB = 1e9
_RUNTIME = 0.75 * GB  # Python, torch and diffusers once imported
_TRANSFORMER_COPIES = 22  # (tokens x width) tensors alive inside a single block
_PICTURES_IN = 3  # float32 pictures alive beside the encoder: padded, shifted to [-1, 1], channels last
_PICTURES_OUT = 6  # and after the decoder: raw, result, reference and what the back-projection needs
MARGIN = 1.15


@dataclass(frozen=True)
class Footprint:
    """What a model weighs and how wide it is, read from the file headers."""

    transformer_bytes: int
    vae_bytes: int
    width: int
    channels: tuple[int, ...]
    itemsize: int
    parameters: int = 0
    stream_bytes: int = 0
    """Of the transformer on the device while its blocks are streamed: three of them, and what is in none."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each phase, what there is, and how the models are held.

    residency: `resident` (both models stay on the device), `offload` (host memory, one on the
    device at a time), `stream` (the same, and of the transformer a few blocks at a time), `reload` (read
    from disk for each phase, one in memory at a time).
    """

    encode: float
    transform: float
    decode: float
    weights: float
    available: float
    residency: str
    peak: float

    def __str__(self) -> str:
        phases = ", ".join(f"{n} {getattr(self, n) / GB:.1f}" for n in ("encode", "transform", "decode"))
        return (
            f"memory plan: weights {self.weights / GB:.1f} GB, work {phases} GB, peak {self.peak / GB:.1f} GB "
            f"of {self.available / GB:.1f} GB available -> {self.residency}"
        )


def vae_work(pixels: int, channels: tuple[int, ...], itemsize: int, latent_factor: int, decoder: bool) -> float:
    """Bytes of the widest moment in one pass of the encoder or decoder over `pixels` of (padded) picture.

    At the first convolution of a residual block its input, the normalised copy and the result live
    at once: 2 in + out channels at that level's resolution.
    """
    levels = len(channels)
    full = pixels / (latent_factor / 2 ** (levels - 1)) ** 2
    widest = 0.0
    for level, out in enumerate(channels):
        neighbour = level + 1 if decoder else level - 1
        into = channels[neighbour] if 0 <= neighbour < levels else out
        widest = max(widest, full / 4**level * (2 * into + out))
    return widest * itemsize


def transformer_work(tokens: int, width: int, itemsize: int) -> float:
    """Bytes alive inside the transformer beside its weights."""
    return tokens * width * _TRANSFORMER_COPIES * itemsize


def estimate(plan: Plan, footprint: Footprint, batch: int, latent_factor: int) -> tuple[float, float, float]:
    """Bytes of work, weights not counted, of encode, transform and decode (colour and fidelity included)."""
    picture = 3 * 4 * plan.padded.pixels
    pixels, channels, itemsize = plan.padded.pixels, footprint.channels, footprint.itemsize
    encoder, decoder = (vae_work(pixels, channels, itemsize, latent_factor, side) for side in (False, True))
    encode = encoder + _PICTURES_IN * picture
    transform = transformer_work(plan.tokens, footprint.width, itemsize)
    decode = max(decoder + picture, _PICTURES_OUT * picture)
    return MARGIN * batch * encode, MARGIN * batch * transform, MARGIN * batch * decode


def make_memory_plan(
    plan: Plan, footprint: Footprint, batch: int, latent_factor: int, device: torch.device, held: float = 0.0
) -> MemoryPlan:
    """Picks the least laborious residency that fits `device`; `held` bytes of weights are loaded already.

    Raises MemoryPlanError, with the estimate, when nothing fits.
    """
    encode, transform, decode = estimate(plan, footprint, batch, latent_factor)
    weights = footprint.transformer_bytes + footprint.vae_bytes
    pictures = footprint.vae_bytes + max(encode, decode)
    phased = max(pictures, footprint.transformer_bytes + transform)
    runtime = 0 if device.type == "cuda" else _RUNTIME
    available = available_bytes(device) + held + runtime
    ways = {"resident": weights + max(encode, transform, decode)}
    if device.type == "cuda" and host_bytes() > weights:
        ways |= {"offload": phased, "stream": max(pictures, footprint.stream_bytes + transform)}
    else:
        ways |= {"reload": phased}
    residency = next((way for way, work in ways.items() if work + runtime <= available), list(ways)[-1])
    chosen = MemoryPlan(encode, transform, decode, weights, available, residency, ways[residency] + runtime)
    if chosen.peak > available:
        raise MemoryPlanError(
            f"{plan.source} -> {plan.target} does not fit: {chosen}. Ask for a smaller scale or long side, free some "
            "memory, or skip this check (--no-memory-check)."
        )
    log.log(logging.INFO if residency == "resident" else logging.WARNING, "%s", chosen)
    return chosen


def available_bytes(device: torch.device) -> float:
    """Free memory of the device; for the CPU the machine's, or the container's if that is less."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return host_bytes()


def host_bytes() -> float:
    """Free host memory in bytes."""
    import psutil

    return min(float(psutil.virtual_memory().available), _cgroup_bytes())


def _cgroup_bytes() -> float:
    """What the Linux control group (container) still allows, or infinity."""
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            return float(limit.read()) - float(used.read())
    except (OSError, ValueError):
        return float("inf")
