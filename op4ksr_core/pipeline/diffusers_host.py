"""The diffusers host: FLUX-shaped transformers and autoencoders of diffusers, from files."""

import logging
import re
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..geometry import Size, SizePlan
from ..model import flow
from ..model.attention import attention_kernel
from ..model.finite import check_finite
from ..model.fp8 import bytes_of, has_fp8_products, to_fp8
from ..model.interfaces import Transformer
from ..model.rope import RotaryEmbedding
from ..model.transformer import make_lean_transformer
from ..progress import Progress, watch
from ..settings import Execution, UpscaleSettings
from ..weights.files import find_weights
from ..weights.sources import Sources
from .compensator import Compensator
from .memory import PLAIN_LAYERS, Footprint, MemoryPlan, make_memory_plan
from .residency import Resident
from .vae_runner import REMEDY, VaeRunner

log = logging.getLogger("op4ksr")


class DiffusersHost:
    """A `restoration.Host` over a flow transformer. `residency` (as in memory.MemoryPlan) says how the next picture is
    run; latents are shifted and scaled as the transformer wants them."""

    def __init__(self, sources: Sources, device: torch.device, dtype: torch.dtype, execution: Execution):
        self.sources, self.device, self.dtype, self.execution = sources, device, dtype, execution
        sources.check()
        self.prompt, self.pooled = sources.load_prompt()
        self.transformer = Resident(self._load_transformer, device, can_stream=True)
        self.vae_runner = VaeRunner(
            sources.vae, sources.f16, lambda: sources.load_vae(dtype, self.is_plain), device, dtype, execution
        )
        self.compensator = Compensator(device, dtype, sources.compensation)
        self.residency = "resident"
        self._own_positions: Any = None

    @property
    def vae(self) -> Resident:
        """Where the VAE is kept."""
        return self.vae_runner.model

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16, 8 or 4."""
        return self.vae_runner.latent_factor

    @cached_property
    def multiple_px(self) -> int:
        """Two latent px, a token's side."""
        return 2 * self.latent_factor

    @property
    def held_bytes(self) -> int:
        """Weights on the device now."""
        return self.transformer.held_bytes + self.vae.held_bytes

    def check(self, settings: UpscaleSettings) -> None:
        """A flow transformer takes all settings."""

    def plan_memory(self, size: SizePlan, count: int) -> MemoryPlan:
        return make_memory_plan(size, self.footprint, count, self.device, self.held_bytes, self.vae_runner.passes)

    def prepare(self, memory: MemoryPlan | None) -> None:
        self.residency = memory.residency if memory else "resident"
        self.vae_runner.vae_pass = memory.vae_pass if memory else self.vae_runner.passes[0]
        for part in (self.transformer, self.vae):
            part.make_room(self.residency)

    def condition_on(self, enlarged: Tensor) -> None:
        """The condition is a fixed prompt."""

    def look_at(self, top: int, left: int, size: Size) -> None:
        """The condition is the same for all parts."""

    def encode(self, padded: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        return self.vae_runner.encode(padded, settings.posterior_seed, self.residency, report)

    def transform(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        with self.transformer.use(self.residency) as model:
            if model.config.in_channels != 4 * z.shape[1]:
                raise WeightsError(
                    f"The transformer has {model.config.in_channels // 4} latent channels, the VAE {z.shape[1]}. "
                    "Give the VAE that the transformer was trained with."
                )
            model.pos_embed = (
                self._own_positions
                if settings.rope is None
                else RotaryEmbedding(settings.rope, model.config.axes_dims_rope)
            )
            blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
            start = flow.noised_start(z, settings.sigma, settings.noise, settings.seed)
            sigmas = flow.sigma_schedule(settings.sigma, settings.steps)
            with watch(blocks, "transform", report, settings.steps), attention_kernel(self.execution.attention):
                z = flow.euler(start, lambda z, s: self._velocity(model, z, s, settings.guidance), sigmas)
        return check_finite(z, "The transformer", self.dtype, REMEDY)

    def decode(self, z: Tensor, report: Progress) -> Tensor:
        return self.vae_runner.decode(z, self.residency, report)

    def compensate(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        return self.compensator(picture, lr, strength, report)

    @cached_property
    def footprint(self) -> Footprint:
        """Sizes of the model's parts at this dtype, from the file headers."""
        itemsize = self.dtype.itemsize
        transformer, vae = find_weights(self.sources.transformer), find_weights(self.sources.vae)
        shapes = transformer.shapes()
        embedder = next((s for k, s in shapes.items() if k.endswith(("x_embedder.weight", "img_in.weight"))), (0,))
        blocks: dict[str, int] = {}
        for name, shape in shapes.items():
            block = re.match(r".*blocks\.\d+\.", name)
            key = block[0] if block else ""
            blocks[key] = blocks.get(key, 0) + bytes_of(name, shape, itemsize, self.execution.fp8)
        return Footprint(
            sum(blocks.values()),
            vae.parameter_count() * itemsize,
            embedder[0],
            self.vae_runner.channels,
            itemsize,
            transformer.parameter_count() + vae.parameter_count(),
            1.0 if self.execution.lean else PLAIN_LAYERS,
            blocks.get("", 0) + 3 * max(size for key, size in blocks.items() if key),
        )

    @property
    def is_plain(self) -> bool:
        """Whether the models run in our own layers: the bundled ones do, which spares the import of diffusers."""
        return self.execution.lean and not self.execution.compiled and self.sources.is_bundled

    def _load_transformer(self) -> Any:
        if self.is_plain:
            model = self.sources.load_transformer(self.dtype, plain=True)
        else:
            model = self.sources.load_transformer(self.dtype)
        self._own_positions = model.pos_embed
        if self.execution.lean and not self.is_plain:
            make_lean_transformer(model)
        if self.execution.fp8:
            products = has_fp8_products(self.device)
            log.info("fp8: weights in 8 bits, %s", "products too" if products else "products not, on this device")
            model = to_fp8(model, products)
        if self.execution.compiled:
            model.compile_repeated_blocks()
        return model

    def _velocity(self, model: Transformer, z: Tensor, sigma: float, guidance: float) -> Tensor:
        at = torch.full((len(z),), sigma, device=self.device)
        return flow.transformer_velocity(model, z, at, self.prompt, self.pooled, guidance)
