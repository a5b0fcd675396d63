"""Between ComfyUI and the core: layouts, progress, cancelling, and VAE passes that never fall back to tiles."""

from collections.abc import Callable
from functools import partial

import comfy.model_management
import comfy.utils
import torch
from comfy.sd import VAE
from torch import Tensor, nn

from ..op4ksr_core.model.finite import check_finite
from ..op4ksr_core.model.layer_weights import casting
from ..op4ksr_core.model.vae_passes import passing
from ..op4ksr_core.progress import Progress
from .plan import tell_pass, until_it_fits, vae_passes
from .versions import cast_weights

_OTHER_DTYPE = "Start ComfyUI with --bf16-vae or --fp32-vae."


def to_bchw(image_bhwc: Tensor) -> Tensor:
    """ComfyUI's IMAGE (B, H, W, C) -> (B, 3, H, W); an alpha channel is dropped, grey is repeated."""
    x = image_bhwc.movedim(-1, 1).float()
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]


def to_image(x_bchw: Tensor) -> Tensor:
    """(B, C, H, W) -> ComfyUI's IMAGE (B, H, W, C)."""
    return x_bchw.movedim(1, -1).contiguous()


def make_report() -> Progress:
    """A progress callback that moves the node's bar and raises when the run was cancelled."""
    bar: comfy.utils.ProgressBar | None = None

    def report(phase: str, done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        if bar is None or bar.total != total:
            bar = comfy.utils.ProgressBar(total)
        bar.update_absolute(done)

    return report


class Parts:
    """One bar over several parts of about equal time: each watched phase is a part, and so is each `step`."""

    def __init__(self, count: int):
        self._bar, self._count, self._finished = comfy.utils.ProgressBar(100 * count), count, -1

    def __call__(self, phase: str, done: int, total: int) -> None:
        """The progress callback of a phase; its first call begins a part."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if done == 0:
            self._finished = min(self._finished + 1, self._count - 1)
        self._bar.update_absolute(round(100 * (self._finished + done / total)))

    def step(self, phase: str) -> None:
        """A part that reports nothing by itself begins."""
        self(phase, 0, 1)

    def finish(self) -> None:
        """All parts are done."""
        self._bar.update_absolute(100 * self._count)


def encode_whole(vae: VAE, x_bchw: Tensor, report: Progress | None = None) -> Tensor:
    """Pictures in [0, 1] -> latents as ComfyUI keeps them (not shifted or scaled), one picture at a time, no tiles.

    Without a `report` the node's bar shows this phase alone.
    """

    def encoded(model: nn.Module) -> list[Tensor]:
        return [model.encode((x * 2 - 1).to(vae.vae_dtype).to(vae.device)).float() for x in x_bchw.split(1)]

    height, width = x_bchw.shape[-2:]
    parts = _in_passes(vae, "encode", height, width, len(x_bchw), encoded, report or make_report())
    return check_finite(torch.cat(parts), "The VAE's encoder", vae.vae_dtype, _OTHER_DTYPE).to(vae.output_device)


def decode_whole(vae: VAE, samples: Tensor, report: Progress | None = None) -> Tensor:
    """Latents -> pictures about [0, 1], not clamped, (B, 3, H, W), one at a time, no tiles."""

    def decoded(model: nn.Module) -> list[Tensor]:
        return [model.decode(z.to(vae.vae_dtype).to(vae.device)).float() * 0.5 + 0.5 for z in samples.split(1)]

    height, width = (side * vae.downscale_ratio for side in samples.shape[-2:])
    parts = _in_passes(vae, "decode", height, width, len(samples), decoded, report or make_report())
    return check_finite(torch.cat(parts), "The VAE's decoder", vae.vae_dtype, _OTHER_DTYPE).to(vae.output_device)


def _in_passes(
    vae: VAE,
    phase: str,
    height: int,
    width: int,
    rounds: int,
    work: Callable[[nn.Module], list[Tensor]],
    report: Progress,
) -> list[Tensor]:
    """One half of the VAE over whole pictures: as planned, again after freeing memory, then in leaner passes."""
    vae.throw_exception_if_invalid()
    ways = vae_passes(vae, height * width, phase == "decode")
    tell_pass(phase, ways[0][0], vae.device)

    def attempt(how: str, needed: float) -> list[Tensor]:
        comfy.model_management.load_models_gpu(
            [vae.patcher], memory_required=needed, force_full_load=vae.disable_offload
        )
        model = vae.first_stage_model
        half = model.decoder if phase == "decode" else model.encoder
        with passing(half, how, phase, report, rounds), casting(cast_weights):
            return work(model)

    attempts = [(how, partial(attempt, how, needed)) for how, needed in (ways[0], *ways)]
    return until_it_fits(attempts, f"{phase} of {width}x{height} px", vae.device)
