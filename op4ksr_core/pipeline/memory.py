"""Peak memory, estimated before the work starts, and what follows from it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import MemoryPlanError
from ..geometry import SizePlan
from ..model.rowwise import STRIP_BYTES
from ..model.vae_passes import FRUGAL, STRIPS, WHOLE, passes_of

log = logging.getLogger("op4ksr")

GB = 1e9
_RUNTIME = 0.75 * GB  # Python, torch and diffusers once imported
_TRANSFORMER_COPIES = 22  # (tokens x width) tensors alive inside a single block
_PICTURES_IN = 3  # float32 pictures alive beside the encoder: padded, shifted to [-1, 1], channels last
_PICTURES_OUT = 6  # and after the decoder: raw, result, reference and what the back-projection needs
MARGIN = 1.15
PLAIN_LAYERS = 1.3
"""Footprint.vae_layers of diffusers' own layers."""


@dataclass(frozen=True)
class Footprint:
    """What a model weighs and how wide it is, read from the file headers."""

    transformer_bytes: int
    vae_bytes: int
    width: int
    channels: tuple[int, ...]
    itemsize: int
    parameters: int = 0
    vae_layers: float = 1.0
    """How much more the VAE's layers hold at once than the lean ones."""
    stream_bytes: int = 0
    """Of the transformer on the device while its blocks are streamed: three of them, and what is in none."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each phase, what there is, and how the models are held.

    residency: `resident` (both models stay on the device), `offload` (host memory, one on the
    device at a time), `stream` (the same, and of the transformer a few blocks at a time), `reload` (read
    from disk for each phase, one in memory at a time), `comfyui` (as ComfyUI manages them).
    """

    encode: float
    transform: float
    decode: float
    weights: float
    available: float
    residency: str
    peak: float
    vae_pass: str = WHOLE
    """How the VAE runs, one of `settings.PASSES`."""

    def __str__(self) -> str:
        phases = ", ".join(f"{n} {getattr(self, n) / GB:.1f}" for n in ("encode", "transform", "decode"))
        return (
            f"memory plan: weights {self.weights / GB:.1f} GB, work {phases} GB, peak {self.peak / GB:.1f} GB "
            f"of {self.available / GB:.1f} GB available -> {self.residency}, VAE {self.vae_pass}"
        )


def vae_work(
    pixels: int, channels: tuple[int, ...], itemsize: int, latent_factor: int, decoder: bool, how: str = WHOLE
) -> float:
    """Bytes of the widest moment in one pass of the encoder or decoder over `pixels` of (padded) picture.

    At the first convolution of a residual block its input, the normalised copy and the result live at once: 2 in + out
    channels at that level's resolution. In strips there are its input and its result. Frugal, there is the result and
    what it is made from, which in a decoder has a quarter of the pixels, or is overwritten. Both need strips beside it,
    and no more than one pass.
    """
    levels = len(channels)
    full = pixels / (latent_factor / 2 ** (levels - 1)) ** 2
    widest = {WHOLE: 0.0, STRIPS: 0.0, FRUGAL: 0.0}
    for level, out in enumerate(channels):
        neighbour = level + 1 if decoder else level - 1
        into = channels[neighbour] if 0 <= neighbour < levels else out
        made_from = into / 4 if decoder else into if into != out else out / 4
        for way, maps in ((WHOLE, 2 * into + out), (STRIPS, into + out), (FRUGAL, out + made_from)):
            widest[way] = max(widest[way], full / 4**level * maps * itemsize)
    return min(widest[how] + STRIP_BYTES, widest[WHOLE])


def transformer_work(tokens: int, width: int, itemsize: int) -> float:
    """Bytes alive inside the transformer beside its weights."""
    return tokens * width * _TRANSFORMER_COPIES * itemsize


def estimate(size: SizePlan, footprint: Footprint, batch: int, how: str = WHOLE) -> tuple[float, float, float]:
    """Bytes of work, weights not counted, of encode, transform and decode (colour and fidelity included)."""
    picture = 3 * 4 * size.padded.pixels
    pixels, channels, itemsize = size.padded.pixels, footprint.channels, footprint.itemsize
    encoder, decoder = (vae_work(pixels, channels, itemsize, size.latent_factor, side, how) for side in (False, True))
    encode = footprint.vae_layers * encoder + _PICTURES_IN * picture
    transform = transformer_work(size.tokens, footprint.width, itemsize)
    decode = max(footprint.vae_layers * decoder + picture, _PICTURES_OUT * picture)
    return MARGIN * batch * encode, MARGIN * batch * transform, MARGIN * batch * decode


def make_memory_plan(
    size: SizePlan,
    footprint: Footprint,
    batch: int,
    device: torch.device,
    held: float = 0.0,
    passes: Sequence[str] | None = None,
) -> MemoryPlan:
    """Picks the least laborious way that fits `device`; `held` bytes of weights are loaded already.

    `passes` are the ways that the VAE may go (default: those of the device); all ways to hold the models are tried
    with the first before the next.
    Raises MemoryPlanError, with the last estimate, when nothing fits.
    """
    plans = [
        candidate
        for how in passes or passes_of(device)
        for candidate in _candidates(size, footprint, batch, device, held, how)
    ]
    chosen = next((candidate for candidate in plans if candidate.peak <= candidate.available), plans[-1])
    if chosen.peak > chosen.available:
        raise MemoryPlanError(
            f"{size.source} -> {size.target} does not fit: {chosen}. Ask for a smaller scale or long side, free some "
            "memory, or skip this check (--no-memory-check)."
        )
    log.log(logging.INFO if chosen is plans[0] else logging.WARNING, "%s", chosen)
    return chosen


def _candidates(
    size: SizePlan, footprint: Footprint, batch: int, device: torch.device, held: float, how: str
) -> list[MemoryPlan]:
    """One plan for each way to hold the models, with the VAE run one way."""
    encode, transform, decode = estimate(size, footprint, batch, how)
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
    return [
        MemoryPlan(encode, transform, decode, weights, available, way, work + runtime, how)
        for way, work in ways.items()
    ]


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
