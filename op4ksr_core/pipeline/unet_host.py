"""The host of Stable Diffusion's families: OSEDiff, TVT and F2IDiff-SR run in the one order of work."""

from functools import cached_property

import torch
from torch import Tensor

from ..errors import SettingError, WeightsError
from ..geometry import Size, SizePlan
from ..model import diffusion
from ..model.attention import attention_kernel
from ..model.finite import check_finite
from ..model.interfaces import PictureEncoder
from ..progress import Progress, watch
from ..settings import Execution, UpscaleSettings
from ..weights.files import find_weights
from ..weights.unet_sources import UNetSources
from .compensator import Compensator
from .memory import PLAIN_LAYERS, Footprint, MemoryPlan, make_memory_plan
from .residency import Resident
from .vae_runner import VaeRunner


class UNetHost:
    """A `restoration.Host` over a UNet that runs once at `settings.timestep`.

    The UNet runs in float32, on CUDA in float16: at timestep 999 bfloat16 would cost up to 0.06 of a latent's
    deviation. `settings.sigma` and guidance are a flow's and change nothing here. Raises SettingError where several
    steps, noise, positions or an execution are asked for that a UNet has not.
    """

    def __init__(self, sources: UNetSources, device: torch.device, dtype: torch.dtype, execution: Execution):
        if execution.fp8 or execution.compiled:
            raise SettingError("fp8 and torch.compile are for FLUX transformers; leave --fp8 and --compile out.")
        self.sources, self.device, self.dtype, self.execution = sources, device, dtype, execution
        self.prompt = sources.load_condition()
        self.enlarged: Tensor | None = None
        """The picture that DINOv2 looks at; None where a prompt conditions."""
        self.part: tuple[slice, slice] = (slice(None), slice(None))
        """Rows and columns of it that the next step is of."""
        sources.check()
        self.unet_dtype = dtype
        if dtype == torch.bfloat16:
            self.unet_dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.transformer = Resident(lambda: sources.load_transformer(self.unet_dtype), device, can_stream=True)
        self.vae_runner = VaeRunner(sources.vae, sources.f16, lambda: sources.load_vae(dtype), device, dtype, execution)
        self.compensator = Compensator(device, dtype, sources.compensation)
        self.residency = "resident"

    @property
    def vae(self) -> Resident:
        """Where the VAE is kept."""
        return self.vae_runner.model

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 8 or 4."""
        return self.vae_runner.latent_factor

    @property
    def held_bytes(self) -> int:
        """Weights on the device now."""
        return self.transformer.held_bytes + self.vae.held_bytes

    @cached_property
    def multiple_px(self) -> int:
        """What the UNet halves without a rest: 64 px for Stable Diffusion and for TVT."""
        return self.latent_factor << (len(self.unet_channels) - 1)

    @cached_property
    def unet_channels(self) -> tuple[int, ...]:
        """Channels of the UNet's levels, from its config.json. Raises WeightsError."""
        config = find_weights(self.sources.unet).config or {}
        channels = config.get("block_out_channels", [320, 640, 1280, 1280])  # diffusers' default
        if not (isinstance(channels, list) and channels and all(isinstance(one, int) and one > 0 for one in channels)):
            raise WeightsError(
                f"{self.sources.unet}/config.json has block_out_channels = {channels!r}; it must list the channels of "
                "each level."
            )
        return tuple(channels)

    def check(self, settings: UpscaleSettings) -> None:
        diffusion.check_one_step(settings)

    def plan_memory(self, size: SizePlan, count: int) -> MemoryPlan:
        return make_memory_plan(size, self.footprint, count, self.device, self.held_bytes, self.vae_runner.passes)

    def prepare(self, memory: MemoryPlan | None) -> None:
        self.residency = memory.residency if memory else "resident"
        self.vae_runner.vae_pass = memory.vae_pass if memory else self.vae_runner.passes[0]
        for part in (self.transformer, self.vae):
            part.make_room(self.residency)

    def condition_on(self, enlarged: Tensor) -> None:
        """F2IDiff-SR's condition is what DINOv2 sees in the enlarged picture; the others have a prompt."""
        if self.sources.features is not None:
            self.enlarged = enlarged

    def look_at(self, top: int, left: int, size: Size) -> None:
        """In windows DINOv2 sees each window's own picture, as it saw crops in training."""
        self.part = (slice(top, top + size.height), slice(left, left + size.width))

    def _condition(self) -> Tensor:
        if self.prompt is not None:
            return self.prompt
        assert self.enlarged is not None
        return self.features_of(self.enlarged[(..., *self.part)])

    @cached_property
    def _extractor(self) -> PictureEncoder:
        extractor: PictureEncoder = self.sources.load_features().to(self.device)
        return extractor

    def features_of(self, picture: Tensor) -> Tensor:
        """DINOv2's tokens (B, 1370, D) of pictures in [0, 1]."""
        return diffusion.picture_tokens(self._extractor, picture)

    def encode(self, padded: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        return self.vae_runner.encode(padded, settings.posterior_seed, self.residency, report)

    def transform(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        self.check(settings)
        condition = self._condition()
        with self.transformer.use(self.residency) as unet:
            at = torch.full((len(z),), settings.timestep, device=z.device)
            blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
            with watch(blocks, "transform", report, 1), attention_kernel(self.execution.attention):
                predicted = diffusion.unet_prediction(unet, z, at, condition)
        z0 = diffusion.clean(z, predicted, diffusion.alpha_bar(settings.timestep), self.sources.prediction)
        return check_finite(z0, "The UNet", self.unet_dtype, "Use float32 (--dtype float32).")

    def decode(self, z: Tensor, report: Progress) -> Tensor:
        return self.vae_runner.decode(z, self.residency, report)

    def compensate(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        return self.compensator(picture, lr, strength, report)

    @cached_property
    def footprint(self) -> Footprint:
        """Sizes of the parts, from the file headers; the UNet's work is estimated by its first level: a token is
        2x2 latent px, and half of its channels count as its width."""
        unet, vae = find_weights(self.sources.unet), find_weights(self.sources.vae)
        size = self.unet_dtype.itemsize
        return Footprint(
            unet.parameter_count() * size,
            vae.parameter_count() * self.dtype.itemsize,
            2 * self.unet_channels[0],
            self.vae_runner.channels,
            size,
            unet.parameter_count() + vae.parameter_count(),
            1.0 if self.execution.lean else PLAIN_LAYERS,
        )
