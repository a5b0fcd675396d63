"""Headless upscaling on diffusers models: encode, one transformer pass at the mid-timestep, decode."""

import gc
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ImageError, MemoryPlanError, SettingError, WeightsError
from ..execution import Execution
from ..geometry import Plan, Size, make_plan
from ..model import flow
from ..model.attention import attention_kernel
from ..model.compensation import HighFrequencyCompensation, compensate, load_compensation
from ..model.finite import check_finite
from ..model.fp8 import bytes_of, has_fp8_products, to_fp8
from ..model.rope import RotaryEmbedding
from ..model.transformer import make_lean_transformer
from ..model.vae import compile_norms, decode, downscale_factor, encode
from ..model.vae_passes import WHOLE, passes_of, passing
from ..picture.colour import finish
from ..picture.resample import channels_last, pad_reflect, resize
from ..progress import Progress, watch
from ..settings import PRESETS, UpscaleSettings
from ..weights.files import find_weights
from ..weights.loading import Adapter, find_adapters, finish_vae, load_prompt, load_transformer, load_vae, merge_adapter
from .memory import PLAIN_LAYERS, Footprint, MemoryPlan, make_memory_plan

log = logging.getLogger("op4ksr")

EMBEDDED = Path(__file__).parent.parent / "assets" / "embedded"


@dataclass(frozen=True)
class Sources:
    """Where a model's parts come from."""

    transformer: Path
    vae: Path
    prompt: Path
    f16: bool | None = None
    head: str = "centered"
    adapters: tuple[Path, ...] = ()
    adapter_scale: float = 1.0

    @classmethod
    def find(
        cls,
        folder: str | Path | None = None,
        *,
        transformer: str | Path | None = None,
        vae: str | Path | None = None,
        prompt: str | Path | None = None,
        f16: bool | None = None,
        head: str = "centered",
        adapters: Iterable[str | Path] = (),
        adapter_scale: float = 1.0,
    ) -> "Sources":
        """The parts of a diffusers folder (`transformer`, `vae`, `prompt.safetensors`), each named one in its place.

        Raises WeightsError where a part is neither named nor in a folder, or the prompt file is missing.
        """

        def part(given: str | Path | None, name: str) -> Path:
            if given is not None:
                return Path(given).expanduser()
            if folder is None:
                raise WeightsError(f"No {name} was given: name a model folder, or the {name} itself.")
            return Path(folder).expanduser() / name

        prompt_path = part(prompt, "prompt.safetensors")
        if not prompt_path.exists():
            raise WeightsError(f"{prompt_path} is missing. `op4ksr embed-prompt` makes it from the text encoders.")
        places = tuple(Path(a).expanduser() for a in adapters)
        return cls(part(transformer, "transformer"), part(vae, "vae"), prompt_path, f16, head, places, adapter_scale)

    @cached_property
    def found_adapters(self) -> dict[str, list[Adapter]]:
        """The adapters by part, read once."""
        found: dict[str, list[Adapter]] = {"transformer": [], "vae": []}
        for path in self.adapters:
            for part, adapter in find_adapters(path).items():
                found[part].append(adapter)
        return found

    def load_prompt(self) -> tuple[Tensor, Tensor]:
        """(sequence, pooled) of the fixed prompt."""
        return load_prompt(self.prompt)

    def load_transformer(self, dtype: torch.dtype) -> Any:
        """The transformer with its adapters merged. Raises WeightsError, also where the prompt does not fit it."""
        model = load_transformer(self.transformer, dtype)
        for adapter in self.found_adapters["transformer"]:
            merge_adapter(model, adapter, self.adapter_scale)
        sequence, pooled = self.load_prompt()
        wanted = (model.config.joint_attention_dim, model.config.pooled_projection_dim)
        if (sequence.shape[-1], pooled.shape[-1]) != wanted:
            raise WeightsError(
                f"{self.prompt} holds widths {sequence.shape[-1]} and {pooled.shape[-1]}, but the transformer wants "
                f"{wanted[0]} and {wanted[1]}. Make the prompt file with this model's text encoders."
            )
        return model

    def load_vae(self, dtype: torch.dtype) -> Any:
        """The VAE with its adapters merged, in diffusers' own layers. Raises WeightsError."""
        vae = load_vae(self.vae, dtype, self.f16, self.head)
        for adapter in self.found_adapters["vae"]:
            merge_adapter(vae.encoder, adapter, self.adapter_scale)
        return vae


@dataclass(frozen=True)
class Variant:
    """A picture (B, 3, H, W) and what it came from: settings, latent (B, C, h, w) before and after the transformer."""

    settings: UpscaleSettings
    before: Tensor
    after: Tensor
    picture: Tensor


class _Part:
    """One model that can be resident, offloaded to the host, streamed from it, or read anew for each use."""

    def __init__(self, load: Callable[[], Any], device: torch.device, can_stream: bool = False):
        self._load, self._device, self._can_stream = load, device, can_stream
        self.module: Any = None
        self._streams = False

    @contextmanager
    def use(self, residency: str) -> Iterator[Any]:
        streams = residency == "stream" and self._can_stream
        if self._streams and not streams:
            self.module, self._streams = None, False  # the hooks that stream it stay on for good: read it anew
        module = self._loaded()
        if streams and not self._streams:
            _stream(module, self._device)
            self._streams = True
        elif not streams:
            module.to(self._device)
        try:
            yield module
        finally:
            if residency in ("offload", "stream") and not streams:
                module.to("cpu")
            if residency == "reload":
                self.module = None
                del module
                gc.collect()
            if residency != "resident" and self._device.type == "cuda":
                torch.cuda.empty_cache()

    def make_room(self, residency: str) -> None:
        """Leaves the device, or memory altogether, before a call that cannot afford both models."""
        if residency in ("offload", "stream") and self.module is not None and not self._streams:
            self.module.to("cpu")
        if residency == "reload":
            self.module, self._streams = None, False

    def _loaded(self) -> Any:
        if self.module is None:
            self.module = self._load()
        return self.module

    @property
    def held_bytes(self) -> int:
        """Weights on the device now."""
        if self.module is None:
            return 0
        held = (*self.module.parameters(), *self.module.buffers())
        return sum(p.numel() * p.element_size() for p in held if p.device.type == self._device.type)


def _stream(module: Any, device: torch.device) -> None:
    """Keeps a transformer's blocks in (pinned) host memory; each comes to the device while the one before runs."""
    module.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )


class Upscaler:
    """Pictures in, larger pictures out. Make one with `from_embedded` or `from_pretrained`.

    `settings` are the defaults of every call. `device` is CUDA where there is one, `dtype` bfloat16
    on CUDA and float32 elsewhere, unless given. `execution` is how the models run.
    """

    def __init__(
        self,
        sources: Sources,
        settings: UpscaleSettings,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        check_memory: bool = True,
        execution: Execution = Execution(),
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.settings, self.sources, self.check_memory, self.execution = settings, sources, check_memory, execution
        _ = sources.found_adapters  # what is wrong with them is said now, not at the first picture
        self.prompt, self.pooled = sources.load_prompt()
        self._transformer = _Part(self._load_transformer, self.device, can_stream=True)
        self._vae = _Part(self._load_vae, self.device)
        self._footprint: Footprint | None = None
        self._factor = 0
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
        preset. Raises WeightsError where a part is missing or does not fit.
        """

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

    def _load_transformer(self) -> Any:
        model = self.sources.load_transformer(self.dtype)
        if self.execution.lean:
            make_lean_transformer(model)
        if self.execution.fp8:
            products = has_fp8_products(self.device)
            log.info("fp8: weights in 8 bits, %s", "products too" if products else "products not, on this device")
            model = to_fp8(model, products)
        if self.execution.compiled:
            model.compile_repeated_blocks()
        return model

    def _load_vae(self) -> Any:
        vae = self.sources.load_vae(self.dtype)
        if not self.execution.lean:
            return vae
        finish_vae(vae).to(memory_format=torch.channels_last)
        return compile_norms(vae) if self.execution.compiled else vae

    @cached_property
    def _compensation(self) -> HighFrequencyCompensation:
        return load_compensation().to(self.device)

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16 or 8. Loads the VAE on first use."""
        if not self._factor:
            with self._vae.use("resident") as vae:
                self._factor = downscale_factor(vae)
        return self._factor

    @property
    def footprint(self) -> Footprint:
        """Sizes of the model's parts at this dtype, from the file headers."""
        if self._footprint is None:
            itemsize = torch.tensor([], dtype=self.dtype).element_size()
            transformer, vae = find_weights(self.sources.transformer), find_weights(self.sources.vae)
            shapes = transformer.shapes()
            embedder = next((s for k, s in shapes.items() if k.endswith(("x_embedder.weight", "img_in.weight"))), (0,))
            with self._vae.use("resident") as module:
                channels = tuple(module.config.block_out_channels)
            blocks: dict[str, int] = {}
            for name, shape in shapes.items():
                block = re.match(r".*blocks\.\d+\.", name)
                key = block[0] if block else ""
                blocks[key] = blocks.get(key, 0) + bytes_of(name, shape, itemsize, self.execution.fp8)
            self._footprint = Footprint(
                sum(blocks.values()),
                vae.parameter_count() * itemsize,
                embedder[0],
                channels,
                itemsize,
                transformer.parameter_count() + vae.parameter_count(),
                1.0 if self.execution.lean else PLAIN_LAYERS,
                blocks.get("", 0) + 3 * max(size for key, size in blocks.items() if key),
            )
        return self._footprint

    def plan(self, source: Size, scale: float | None = None, long_side: int | None = None) -> Plan:
        """Source, target and padded size for a picture of `source` px."""
        return make_plan(source, scale, long_side, token_px=2 * self.latent_factor)

    def memory_plan(self, plan: Plan, batch: int = 1) -> MemoryPlan:
        """The estimate for one call. Raises MemoryPlanError where nothing fits."""
        held = self._transformer.held_bytes + self._vae.held_bytes
        return make_memory_plan(plan, self.footprint, batch, self.latent_factor, self.device, held, self._passes)

    @property
    def _passes(self) -> tuple[str, ...]:
        """The ways that the VAE may go, the first wanted most."""
        if self.execution.vae_pass:
            return (self.execution.vae_pass,)
        return passes_of(self.device) if self.execution.lean else (WHOLE,)

    def __call__(
        self,
        image_bchw: Tensor,
        scale: float | None = None,
        long_side: int | None = None,
        settings: UpscaleSettings | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Upscales (B, 3, H, W) RGB in [0, 1] to the exact target size, float32 in [0, 1] on the input's device.

        `scale` in (0, 16] (default 4) or `long_side` in px. Raises ImageError on a wrong shape, NaN or
        values out of range; SettingError; MemoryPlanError before any work that would not fit; PrecisionError where a
        model gives NaN or infinity.
        """
        return next(self.variants(image_bchw, [settings or self.settings], scale, long_side, progress)).picture

    @torch.inference_mode()
    def variants(
        self,
        image_bchw: Tensor,
        settings: Sequence[UpscaleSettings],
        scale: float | None = None,
        long_side: int | None = None,
        progress: Progress | None = None,
        decode: bool = True,
    ) -> Iterator["Variant"]:
        """The same picture under each of the settings, one after the other, encoded once.

        Arguments and errors as of a call; SettingError too where the settings differ in seed, which the
        encoder may use. Without `decode` the latents are all that is made, and pictures are empty.
        """
        check_image(image_bchw)
        if len({one.seed for one in settings}) != 1:
            raise SettingError("Variants of one picture are encoded once: give settings of one and the same seed.")
        plan = self.plan(Size(*image_bchw.shape[-2:]), scale, long_side)
        residency, how = "resident", self._passes[0]
        if self.check_memory:
            self.last_memory_plan = self.memory_plan(plan, len(image_bchw))
            residency, how = self.last_memory_plan.residency, self.last_memory_plan.vae_pass
        for part in (self._transformer, self._vae):
            part.make_room(residency)
        report = progress or (lambda phase, done, total: None)
        lr = image_bchw.to(self.device, torch.float32)
        with _named_shortage(plan):
            before = self._encode(lr, plan, settings[0], residency, how, report)
            for one in settings:
                after = self._transform(before, one, residency, report)
                if not decode:
                    yield Variant(one, before, after, after.new_zeros(0))
                    continue
                raw = self._decode(after, residency, how, report)
                picture = finish(raw, lr, plan.target, one.colour, one.fidelity)
                del raw
                if one.compensation:
                    picture = compensate(picture, lr, one.compensation, self._compensation, report)
                yield Variant(one, before, after, picture.to(image_bchw.device))

    def _encode(
        self, lr: Tensor, plan: Plan, settings: UpscaleSettings, residency: str, how: str, report: Progress
    ) -> Tensor:
        with self._vae.use(residency) as vae, passing(vae.encoder, how, "encode", report):
            padded = pad_reflect(resize(lr, plan.target), plan.padded)
            z = encode(vae, channels_last(padded.to(self.dtype)), settings.seed)
        return self._finite(z, "The VAE's encoder").float().contiguous()

    def _transform(self, z: Tensor, settings: UpscaleSettings, residency: str, report: Progress) -> Tensor:
        with self._transformer.use(residency) as model:
            if model.config.in_channels != 4 * z.shape[1]:
                raise WeightsError(
                    f"The transformer has {model.config.in_channels // 4} latent channels, the VAE {z.shape[1]}."
                )
            model.pos_embed = RotaryEmbedding(settings.rope, model.config.axes_dims_rope)
            blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
            sigmas = flow.sigma_schedule(settings.sigma, settings.steps)
            if settings.noise:
                eps = flow.draw_noise(z.shape, settings.seed or 0).to(z)
                z = flow.add_noise(z, eps, settings.sigma, settings.noise)
            with watch(blocks, "transform", report, settings.steps), attention_kernel(self.execution.attention):
                z = flow.euler(z, lambda z, s: self._velocity(model, z, s, settings.guidance), sigmas)
        return self._finite(z, "The transformer")

    def _velocity(self, model: Any, z: Tensor, sigma: float, guidance: float) -> Tensor:
        at = torch.full((len(z),), sigma, device=self.device)
        return flow.transformer_velocity(model, z, at, self.prompt, self.pooled, guidance)

    def _decode(self, z: Tensor, residency: str, how: str, report: Progress) -> Tensor:
        with self._vae.use(residency) as vae, passing(vae.decoder, how, "decode", report):
            picture = decode(vae, channels_last(z.to(self.dtype)))
        return self._finite(picture, "The VAE's decoder")

    def _finite(self, x: Tensor, phase: str) -> Tensor:
        return check_finite(x, phase, self.dtype, "Use bfloat16 or float32 (--dtype).")


def check_image(image_bchw: Tensor) -> None:
    """Raises ImageError unless the tensor is (B, 3, H, W), floating, finite and within [0, 1]."""
    if image_bchw.ndim != 4 or image_bchw.shape[1] != 3 or 0 in image_bchw.shape:
        raise ImageError(f"A picture batch is (B, 3, H, W) with no empty side, got {list(image_bchw.shape)}.")
    if not image_bchw.is_floating_point():
        raise ImageError(f"A picture is floating point in [0, 1], got {image_bchw.dtype}. Divide bytes by 255.")
    low, high = (float(v) for v in image_bchw.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ImageError(f"Pixels must lie in [0, 1], got {low:g} to {high:g} (NaN counts as outside).")


@contextmanager
def _named_shortage(plan: Plan) -> Iterator[None]:
    """Turns the backends' out-of-memory errors into ours."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise MemoryPlanError(
                f"Memory ran out while upscaling {plan.source} -> {plan.target}. Ask for a smaller scale or long side."
            ) from error
        raise
