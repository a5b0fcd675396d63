"""Between ComfyUI and the core: layouts, progress, cancelling, and VAE passes that never fall back to tiles."""

import comfy.model_management
import comfy.utils
import torch
from comfy.sd import VAE
from torch import Tensor, nn

from ..op4ksr_core.errors import MemoryPlanError
from ..op4ksr_core.finite import check_finite
from ..op4ksr_core.progress import Progress
from ..op4ksr_core.vae_strips import passing
from .plan import tell_pass, vae_pass

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


def encode_whole(vae: VAE, x_bchw: Tensor, report: Progress | None = None) -> Tensor:
    """Pictures in [0, 1] -> latents as ComfyUI keeps them (not shifted or scaled), one picture at a time, no tiles.

    Without a `report` the node's bar shows this phase alone.
    """
    how, work = vae_pass(vae, x_bchw.shape[2] * x_bchw.shape[3], decoder=False)
    tell_pass("encode", how, vae.device)
    model = _load(vae, work)
    with passing(model.encoder, how, "encode", report or make_report(), len(x_bchw)), _named_shortage(x_bchw):
        parts = [model.encode((x * 2 - 1).to(vae.vae_dtype).to(vae.device)).float() for x in x_bchw.split(1)]
    return check_finite(torch.cat(parts), "The VAE's encoder", vae.vae_dtype, _OTHER_DTYPE).to(vae.output_device)


def decode_whole(vae: VAE, samples: Tensor, report: Progress | None = None) -> Tensor:
    """Latents -> pictures about [0, 1], not clamped, (B, 3, H, W), one at a time, no tiles."""
    how, work = vae_pass(vae, samples.shape[2] * samples.shape[3] * vae.downscale_ratio**2, decoder=True)
    tell_pass("decode", how, vae.device)
    model = _load(vae, work)
    with passing(model.decoder, how, "decode", report or make_report(), len(samples)), _named_shortage(samples):
        parts = [model.decode(z.to(vae.vae_dtype).to(vae.device)).float() * 0.5 + 0.5 for z in samples.split(1)]
    return check_finite(torch.cat(parts), "The VAE's decoder", vae.vae_dtype, _OTHER_DTYPE).to(vae.output_device)


def _load(vae: VAE, memory: float) -> nn.Module:
    vae.throw_exception_if_invalid()
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=vae.disable_offload)
    return vae.first_stage_model


class _named_shortage:
    """Turns out-of-memory into an error that says what to do; stock ComfyUI would tile and shift the colours."""

    def __init__(self, x: Tensor):
        self.shape = list(x.shape)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, comfy.model_management.OOM_EXCEPTION):
            raise MemoryPlanError(
                f"Memory ran out on a batch of shape {self.shape}. Lower the scale, or free memory; "
                "tiles are not used because they change colours and make seams."
            ) from error
