"""Upscaling headless, on diffusers models: sizes, memory plan, then the one order of work."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MemoryPlanError, SettingError
from ..geometry import Size, SizePlan, plan_target, target_size
from ..paths import EMBEDDED
from ..picture.checks import check_image
from ..progress import Progress
from ..settings import PRESETS, Execution, UpscaleSettings
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources, is_unet_folder
from .diffusers_host import DiffusersHost
from .memory import MemoryPlan, make_memory_plan
from .restore import Variant, variants
from .unet_host import UNetHost


class Upscaler:
    """Pictures in, larger pictures out. Make one with `from_embedded` or `from_pretrained`.

    `settings` are the defaults of every call. `device` is CUDA where there is one, `dtype` bfloat16
    on CUDA and float32 elsewhere, unless given. `execution` is how the models run.
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
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.settings, self.check_memory = _checked(settings), check_memory
        kind = UNetHost if isinstance(sources, UNetSources) else DiffusersHost
        self.host: DiffusersHost = kind(sources, self.device, self.dtype, execution)  # type: ignore[arg-type]
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
        head: str = "centered",
        adapters: Iterable[str | Path] = (),
        adapter_scale: float = 1.0,
        settings: UpscaleSettings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        check_memory: bool = True,
        execution: Execution = Execution(),
    ) -> "Upscaler":
        """A model from a diffusers folder (`transformer`, `vae`, `prompt.safetensors`), or from files.

        Each named file or folder takes the place of the folder's own. `adapters` are OMGSR-layout
        folders or single files, merged times `adapter_scale`. Settings default to the `op4ksr`
        preset. A folder with `unet` is Stable Diffusion's: it goes with a converted OSEDiff or TVT file as its adapter
        (`op4ksr convert`), or with `features`, a DINOv2 folder, for F2IDiff-SR; give the preset of that name.
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
        )
        return cls(sources, settings or PRESETS["op4ksr"], device, dtype, check_memory, execution)

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16 or 8."""
        return self.host.latent_factor

    def plan(
        self, source: Size, scale: float | None = None, long_side: int | None = None, target: Size | None = None
    ) -> SizePlan:
        """Source, target and padded size for a picture of `source` px."""
        if target is None:
            target = target_size(source, scale, long_side)
        elif scale is not None or long_side is not None:
            raise SettingError(f"Give a target ({target}), or a scale or long side, not both.")
        return plan_target(source, target, token_px=self.host.token_px)

    def memory_plan(self, plan: SizePlan, batch: int = 1) -> MemoryPlan:
        """The estimate for one call. Raises MemoryPlanError where nothing fits."""
        host = self.host
        return make_memory_plan(
            plan, host.footprint, batch, host.latent_factor, self.device, host.held_bytes, host.passes
        )

    def __call__(
        self,
        image_bchw: Tensor,
        scale: float | None = None,
        long_side: int | None = None,
        settings: UpscaleSettings | None = None,
        progress: Progress | None = None,
        target: Size | None = None,
    ) -> Tensor:
        """Upscales (B, 3, H, W) RGB in [0, 1] to the exact target size, float32 in [0, 1] on the input's device.

        `scale` in (0, 16] (default 4), `long_side` in px, or the exact `target`. Raises ImageError on a wrong shape,
        NaN or values out of range; SettingError; MemoryPlanError before any work that would not fit; PrecisionError
        where a model gives NaN or infinity.
        """
        chosen = [settings or self.settings]
        return next(self.variants(image_bchw, chosen, scale, long_side, progress, target=target)).picture

    @torch.inference_mode()
    def variants(
        self,
        image_bchw: Tensor,
        settings: Sequence[UpscaleSettings],
        scale: float | None = None,
        long_side: int | None = None,
        progress: Progress | None = None,
        decode: bool = True,
        target: Size | None = None,
    ) -> Iterator[Variant]:
        """The same picture under each of the settings, one after the other, encoded once.

        Arguments and errors as of a call and of `restore.variants`.
        """
        check_image(image_bchw)
        settings = [_checked(one) for one in settings]
        plan = self.plan(Size(*image_bchw.shape[-2:]), scale, long_side, target)
        residency, vae_pass = "resident", self.host.passes[0]
        if self.check_memory:
            self.last_memory_plan = self.memory_plan(plan, len(image_bchw))
            residency, vae_pass = self.last_memory_plan.residency, self.last_memory_plan.vae_pass
        self.host.prepare(residency, vae_pass)
        lr = image_bchw.to(self.device, torch.float32)
        with _named_shortage(plan):
            for one in variants(self.host, lr, plan, settings, progress or (lambda *_: None), decode):
                picture, plain = (x.to(image_bchw.device) for x in (one.picture, one.plain))
                yield Variant(one.settings, one.before, one.after, picture, plain)


def _checked(settings: UpscaleSettings) -> UpscaleSettings:
    if not isinstance(settings, UpscaleSettings):
        raise SettingError(
            f"Settings are UpscaleSettings, for example PRESETS['embedded'], got {type(settings).__name__}."
        )
    return settings


@contextmanager
def _named_shortage(plan: SizePlan) -> Iterator[None]:
    """Turns the backends' out-of-memory errors into ours."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise MemoryPlanError(
                f"Memory ran out while upscaling {plan.source} -> {plan.target}. Ask for a smaller scale or long side."
            ) from error
        raise
