"""Upscaling headless, on diffusers models: a door to `restoration` with models from files."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MemoryPlanError, SettingError
from ..geometry import Frame, Scale, Size, Target
from ..model.precision import default_device, default_dtype, device_line
from ..paths import EMBEDDED
from ..picture.checks import check_image
from ..progress import Progress
from ..settings import PRESETS, Execution, UpscaleSettings
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources, is_unet_folder
from . import restoration
from .composite import Framed
from .diffusers_host import DiffusersHost
from .memory import MemoryPlan
from .restoration import Plan, Request, Variant, check_settings
from .unet_host import UNetHost

log = logging.getLogger("op4ksr")


class Upscaler:
    """Pictures in, larger pictures out. Make one with `from_embedded` or `from_pretrained`.

    `settings` are the defaults of every call. `device` is CUDA where there is one, `dtype` bfloat16
    on cards that have it and float32 elsewhere, unless given. `execution` is how the models run.
    """

    def __init__(
        self,
        sources: Sources | UNetSources,
        settings: UpscaleSettings,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        check_memory: bool = True,
        execution: Execution = Execution(),
    ):
        self.device = torch.device(device) if device else default_device()
        self.dtype = dtype or default_dtype(self.device)
        log.info("%s", device_line(self.device, self.dtype))
        self.settings, self.check_memory = check_settings(settings), check_memory
        self.host: DiffusersHost | UNetHost
        if isinstance(sources, UNetSources):
            self.host = UNetHost(sources, self.device, self.dtype, execution)
        else:
            self.host = DiffusersHost(sources, self.device, self.dtype, execution)
        self.last_memory_plan: MemoryPlan | None = None

    @classmethod
    def from_embedded(
        cls,
        settings: UpscaleSettings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        check_memory: bool = True,
        execution: Execution = Execution(),
    ) -> "Upscaler":
        """The bundled small model."""
        settings = settings or PRESETS["embedded"]
        return cls(Sources.find(EMBEDDED), settings, device, dtype, check_memory, execution)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        transformer: str | Path | None = None,
        vae: str | Path | None = None,
        prompt: str | Path | None = None,
        features: str | Path | None = None,
        f16: bool | None = None,
        head: str = "auto",
        adapters: Iterable[str | Path] = (),
        adapter_scale: float = 1.0,
        compensation: str | Path | None = None,
        settings: UpscaleSettings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        check_memory: bool = True,
        execution: Execution = Execution(),
    ) -> "Upscaler":
        """A model from a diffusers folder (`transformer`, `vae`, `prompt.safetensors`), or from files.

        Each named file or folder takes the place of the folder's own. `adapters` are OMGSR-layout folders or single
        files, merged times `adapter_scale`. `head`, one of HEADS, is an F16 decoder's. `compensation` is a detail
        network's file in place of the bundled one. Settings default to the `op4ksr` preset. A folder with `unet` is
        Stable Diffusion's: it goes with a converted OSEDiff or TVT file as its adapter (`op4ksr convert`), or with
        `features`, a DINOv2 folder, for F2IDiff-SR; give the preset of that name.
        Raises WeightsError where a part is missing or does not fit.
        """
        if is_unet_folder(folder):
            assert folder is not None
            unet = UNetSources.find(
                folder,
                unet=transformer,
                vae=vae,
                prompt=prompt,
                features=features,
                adapters=adapters,
                adapter_scale=adapter_scale,
                compensation=compensation,
            )
            return cls(unet, settings or PRESETS["osediff"], device, dtype, check_memory, execution)
        sources = Sources.find(
            folder,
            transformer=transformer,
            vae=vae,
            prompt=prompt,
            f16=f16,
            head=head,
            adapters=adapters,
            adapter_scale=adapter_scale,
            compensation=compensation,
        )
        return cls(sources, settings or PRESETS["op4ksr"], device, dtype, check_memory, execution)

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16, 8 or 4."""
        return self.host.latent_factor

    def plan(self, frame: Frame, settings: Sequence[UpscaleSettings] | None = None, count: int = 1) -> Plan:
        """Sizes and memory for `count` pictures in a frame (`Target.frame`), before they are read.

        Raises SettingError, and MemoryPlanError where nothing fits.
        """
        request = Request(frame, settings or [self.settings], count, self.check_memory)
        made = restoration.plan(self.host, request)
        self.last_memory_plan = made.memory
        return made

    @torch.inference_mode()
    def run(
        self,
        plan: Plan,
        rgb: Tensor,
        progress: Progress | None = None,
        alpha: Tensor | None = None,
        region: Tensor | None = None,
    ) -> Framed:
        """Carries out a plan, as `restoration.run`, on (B, 3, h, w) in [0, 1]; results are on the input's device.

        Raises ImageError on a wrong shape, NaN or values out of range; PrecisionError where a model gives NaN or
        infinity; MemoryPlanError where memory runs out.
        """
        check_image(rgb)
        with _named_shortage(plan):
            return restoration.run(self.host, plan, rgb, progress or _quiet, alpha, region)

    def __call__(
        self,
        image_bchw: Tensor,
        target: Target | Size | float = Scale(),
        settings: UpscaleSettings | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Upscales (B, 3, H, W) RGB in [0, 1] to the exact target size, float32 in [0, 1] on the input's device.

        `target` is 4 times the size unless given: Scale (a number is one), LongSide, ShortSide, Megapixels, Box,
        or a Size that the picture is stretched to. Raises ImageError on a wrong shape, NaN or values out of range;
        SettingError; MemoryPlanError before any work that would not fit; PrecisionError where a model gives NaN or
        infinity.
        """
        check_image(image_bchw)
        frame = _frame(image_bchw, target)
        plan = self.plan(frame, [settings or self.settings], len(image_bchw))
        return self.run(plan, image_bchw, progress).rgb

    @torch.inference_mode()
    def variants(
        self,
        image_bchw: Tensor,
        settings: Sequence[UpscaleSettings],
        target: Target | Size | float = Scale(),
        progress: Progress | None = None,
        decode: bool = True,
    ) -> Iterator[Variant]:
        """The same picture under each of the settings, one after the other, encoded once.

        Arguments and errors as of a call and of `restoration.variants`.
        """
        check_image(image_bchw)
        plan = self.plan(_frame(image_bchw, target), settings, len(image_bchw))
        with _named_shortage(plan):
            yield from restoration.variants(self.host, plan, image_bchw, progress or _quiet, decode)


def _quiet(phase: str, done: int, total: int) -> None:
    """Reports nothing."""


def _frame(image_bchw: Tensor, target: Target | Size | float) -> Frame:
    source = Size(*image_bchw.shape[-2:])
    if isinstance(target, Size):
        return Frame.whole(source, target)
    if isinstance(target, (int, float)):
        target = Scale(target)
    if not isinstance(target, Target):
        raise SettingError(f"The target is Scale, LongSide, ShortSide, Megapixels, Box or Size, got {target!r}.")
    return target.frame(source)


@contextmanager
def _named_shortage(plan: Plan) -> Iterator[None]:
    """Turns the backends' out-of-memory errors into ours."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            sizes = f"{plan.size.source} -> {plan.size.target}"
            raise MemoryPlanError(f"Memory ran out while upscaling {sizes}. Ask for a smaller size.") from error
        raise
