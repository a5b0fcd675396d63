"""OSEDiff's, TVT's and F2IDiff-SR's step: LoRA on the VAE's encoder and on the UNet."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import SettingError
from ...files import at_home
from ...geometry import Size
from ...model import diffusion
from ...model.vae import decode, downscale_factor, encode
from ...picture.resample import resize
from ...weights.files import find_model
from ...weights.prompt_files import load_tokens
from ...weights.trained_for import TrainedFor
from ...weights.unet_adapters import BASE, UNetAdapter, save_unet_adapter
from ...weights.unet_sources import UNetSources, load_unet, new_sd_vae, new_unet
from ..losses.vsd import guided, vsd_loss
from ..precision import frozen_dtype
from ..settings import TrainSettings
from ..sharding import whole
from .lora import REGULARISER, SINGLE, active_lora, add_lora, read_lora, regulariser_weights, trainable_weights
from .negative import negative_file
from .protocol import Batch, Restored
from .restoration import posterior_seed, restoration_losses

log = logging.getLogger("op4ksr")

UNET_TARGETS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_in conv_shortcut conv_out proj_out proj_in ff.net.2 ff.net.0.proj"
).split()
VAE_TARGETS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0".split()
"""OSEDiff's LoRA targets (arXiv 2406.08177); the encoder's come with quant_conv."""


class UNetStrategy(nn.Module):
    """LR picture -> restored picture by one step of a UNet, with gradients.

    Trainable are LoRA weights on the UNet and, with `encoder_lora`, on encoder and quant_conv, and the UNet's
    `whole_layers` (OSEDiff: conv_in), all float32. `extractor` is DINOv2 where the picture itself conditions the UNet;
    VSD then knows no guidance, for it has no other condition. `prior` is another UNet that VSD distils from (TVT).
    Raises SettingError where the UNet has not a layer of `whole_layers`.
    """

    prompt: Tensor | None
    negative: Tensor | None
    bars: Tensor

    takes_captions = True
    shardable = None
    last_layer = None

    def __init__(
        self,
        unet: Any,
        vae: Any,
        condition: Tensor | None,
        settings: TrainSettings,
        negative: Tensor | None = None,
        prediction: diffusion.Prediction = "epsilon",
        extractor: Any = None,
        prior: Any = None,
    ):
        super().__init__()
        self.settings = settings
        self.prediction = prediction
        self.extractor = extractor
        self.hr_encoder = copy.deepcopy(vae.encoder).requires_grad_(False)
        self.transformer = unet
        self.vae = vae
        self.factor = downscale_factor(vae)
        """Picture px per latent px; asked before the encoder has a LoRA."""
        self.multiple = self.factor * 2 ** (len(unet.config.block_out_channels) - 1)
        """What the UNet's coarsest level takes."""
        self.requires_grad_(False)
        self.configs = {"unet": add_lora(unet, UNET_TARGETS, settings)}
        if settings.encoder_lora:
            self.configs["vae"] = add_lora(vae, _vae_targets(vae), settings)
        self.distillation = None
        self.prior = prior
        if settings.losses.vsd:
            add_lora(unet if prior is None else prior, UNET_TARGETS, settings, REGULARISER)
            self.distillation = UNetDistillation(self)
        self.whole_layers = _whole_layers(unet, settings.whole_layers)
        """Parameters that are trained whole, by their names in the UNet without LoRA."""
        for parameter in self.whole_layers.values():
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
        self.whole_before = {name: p.detach().clone() for name, p in self.whole_layers.items()}
        """What they were."""
        if settings.checkpointing:
            unet.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
            if prior is not None:
                prior.enable_gradient_checkpointing()
        self.register_buffer("prompt", condition, persistent=False)
        self.register_buffer("negative", negative, persistent=False)
        self.register_buffer("bars", diffusion.alpha_bars().float(), persistent=False)

    @classmethod
    def load(cls, sources: UNetSources, settings: TrainSettings) -> "UNetStrategy":
        """From a diffusers folder. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        negative = None
        if settings.losses.vsd and sources.features is None:
            negative = load_tokens(negative_file(settings))
        extractor = sources.load_features() if sources.features is not None else None
        unet = sources.load_transformer(frozen_dtype(settings))
        vae = sources.load_vae(torch.float32)
        prior = _load_prior(settings) if settings.losses.vsd else None
        return cls(unet, vae, sources.load_condition(), settings, negative, sources.prediction, extractor, prior)

    @classmethod
    def without_weights(cls, sources: UNetSources, settings: TrainSettings) -> "UNetStrategy":
        """The same on the meta device, from config.json and the files' headers. Raises WeightsError."""
        dtype = frozen_dtype(settings)
        condition = sources.load_condition()
        with torch.device("meta"):
            unet = _described(sources.unet, dtype)
            vae = new_sd_vae(sources.vae)
            extractor = sources.new_features() if sources.features is not None else None
            prior = None
            if settings.losses.vsd and settings.vsd_prior:
                prior = _described(at_home(settings.vsd_prior), dtype)
            model = cls(unet, vae, condition, settings, None, "epsilon", extractor, prior)
        for parameter in model.whole_layers.values():
            parameter.data = parameter.data.to(dtype)  # autocast, which makes this cast, does not run here
        return model.to("meta")

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """A picture's own tokens come third where the batch has them, then the seed of the posterior's sample."""
        seed = posterior_seed(self.settings, batch)
        return batch["lr"], Size(*batch["hr"].shape[-2:]), batch.get("prompt"), seed

    def forward(self, lr: Tensor, size: Size, prompt: Tensor | None = None, seed: int | None = None) -> Restored:
        """`prompt` (B, L, D): each picture's own tokens, in place of the fixed ones. `seed` samples the encoder's
        posterior; without it, its mode."""
        large = resize(lr, size)
        condition = self._condition_of(large) if prompt is None else prompt
        z_lr = encode(self.vae, large.to(self.vae.dtype), seed).float()
        at = torch.full((len(z_lr),), self.settings.timestep, device=z_lr.device)
        z = self.clean(z_lr, at, condition)
        return Restored(z_lr, z, decode(self.vae, z.to(self.vae.dtype)).float(), condition)

    def _condition_of(self, large: Tensor) -> Tensor:
        if self.extractor is not None:
            return diffusion.picture_tokens(self.extractor, large)
        assert self.prompt is not None
        return self.prompt

    def clean(self, z: Tensor, timesteps: Tensor, condition: Tensor, unet: Any = None) -> Tensor:
        """The estimate of the clean latent by the trained UNet or another; timesteps are (B,)."""
        predicted = diffusion.unet_prediction(unet or self.transformer, z, timesteps, condition)
        return diffusion.clean(z, predicted, self.bars_at(timesteps), self.prediction)

    def bars_at(self, timesteps: Tensor) -> Tensor:
        """abar of timesteps (B,), shaped to broadcast over latents."""
        return self.bars[timesteps].view(-1, 1, 1, 1)

    def losses(self, batch: Batch, outputs: Restored) -> tuple[dict[str, Tensor], Tensor]:
        return restoration_losses(self.settings, batch, outputs, self.vae, self.hr_encoder)

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable_weights(self)

    def export(self) -> Callable[[Path], None]:
        """`adapters.safetensors` in the form that *Load OSEDiff or TVT adapter* and `--adapter` read."""
        adapter, said = self.unet_adapter(), self.trained_for().as_metadata()
        return lambda folder: save_unet_adapter(folder / SINGLE, adapter, said)

    def trained_for(self) -> TrainedFor:
        """What inference must share with this training."""
        tokens = None if self.prompt is None or self.settings.captions else self.prompt.shape[1]
        return TrainedFor(self._family(), self.factor, timestep=self.settings.timestep, prompt_tokens=tokens)

    def unet_adapter(self) -> UNetAdapter:
        """What was learned."""
        parts = {"unet": self.transformer, "vae": self.vae}
        lora = {name: read_lora(parts[name], config) for name, config in self.configs.items()}
        layers = {name: whole(p) for name, p in self.whole_layers.items()}
        return UNetAdapter("this training", self._family(), BASE, lora, {"unet": layers, "vae": {}})

    def _family(self) -> str:
        if self.settings.vsd_quadrants or not self.settings.encoder_lora:
            return "tvt"
        return "f2idiff" if self.extractor is not None else "osediff"


class UNetDistillation:
    """VSD on clean latents at a random timestep, for the strategy whose UNet has the second LoRA."""

    def __init__(self, strategy: UNetStrategy):
        self.strategy = strategy
        self.settings = strategy.settings

    def weights(self) -> dict[str, nn.Parameter]:
        return regulariser_weights(self.strategy)

    @property
    def unet(self) -> Any:
        """The network that is distilled from, with the regulariser as its LoRA."""
        prior = self.strategy.prior
        return self.strategy.transformer if prior is None else prior

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[None]:
        """Where the trained UNet is the prior too, it gets the layers back that the step trains whole."""
        if self.strategy.prior is not None:
            with active_lora(self.unet, adapter):
                yield
            return
        layers = self.strategy.whole_layers
        learned = {name: p.data for name, p in layers.items()}
        for name, parameter in layers.items():
            parameter.data = self.strategy.whole_before[name].to(parameter.device)
            parameter.requires_grad_(False)  # what the regulariser learns is not its own
        try:
            with active_lora(self.unet, adapter):
                yield
        finally:
            for name, parameter in layers.items():
                parameter.data = learned[name]
                parameter.requires_grad_(True)

    def loss(self, restored: Restored, seeds: Tensor) -> Tensor:
        """The prior, guided where there is a negative prompt, against the regulariser; TVT's on quadrants."""
        step = self.strategy
        z, condition = restored.z, _condition(restored)
        if self.settings.vsd_quadrants:
            z, condition, seeds = _quadrants(z, condition, seeds)
        state, at, _ = diffusion.noised_at_random(z.detach(), seeds, 2, step.bars, self.settings.vsd_range)
        with torch.no_grad():
            with self.active(None):
                fixed = step.clean(state, at, condition, self.unet)
                if step.negative is not None:
                    unguided = step.clean(state, at, step.negative, self.unet)
                    fixed = guided(fixed, unguided, self.settings.vsd_guidance)
            with self.active(REGULARISER):
                updated = step.clean(state, at, condition, self.unet)
        return vsd_loss(z, fixed, updated)

    def regulariser_loss(self, restored: Restored, seeds: Tensor) -> Tensor:
        """The noise of the restored latents, or their v."""
        step = self.strategy
        z = restored.z.detach()
        state, at, noise = diffusion.noised_at_random(z, seeds, 4, step.bars, (0.001, 0.999))
        predicted = diffusion.unet_prediction(self.unet, state, at, _condition(restored))
        return F.mse_loss(predicted, diffusion.target(z, noise, step.bars_at(at), step.prediction))


def _condition(restored: Restored) -> Tensor:
    assert restored.condition is not None
    return restored.condition


def _quadrants(z: Tensor, condition: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each quadrant of the latents a sample by itself, with a seed of its own."""
    z = rearrange(z, "b c (i h) (j w) -> (b i j) c h w", i=2, j=2)
    seeds = (4 * seeds[:, None] + torch.arange(4, device=seeds.device)).flatten()
    if len(condition) > 1:
        condition = condition.repeat_interleave(4, 0)
    return z, condition, seeds


def _vae_targets(vae: nn.Module) -> list[str]:
    """Names of the encoder's layers that get a LoRA, and quant_conv."""
    layers = [name for name, module in vae.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    inside = [name for name in layers if name.startswith("encoder.") and name.endswith(tuple(VAE_TARGETS))]
    return [*inside, "quant_conv"]


def _whole_layers(unet: nn.Module, names: str) -> dict[str, nn.Parameter]:
    """The UNet's own parameters, no LoRA, in the layers and blocks of these names. Raises SettingError."""
    own = {key.replace(".base_layer.", "."): p for key, p in unet.named_parameters() if ".lora_" not in key}
    found: dict[str, nn.Parameter] = {}
    for name in names.split():
        inside = {key: p for key, p in own.items() if key.startswith(f"{name}.")}
        if not inside:
            raise SettingError(f"whole_layers names {name!r}, which this UNet does not have.")
        found |= inside
    return found


def _described(folder: Path, dtype: torch.dtype) -> Any:
    """A UNet by its config.json alone."""
    unet = new_unet(folder, find_model(folder, "UNet").config)
    return nn.Module.to(unet, dtype)  # diffusers' own warns of each cast


def _load_prior(settings: TrainSettings) -> Any:
    """The UNet of `vsd_prior`; None, and a warning where the trained UNet's new blocks cannot serve as one."""
    if settings.vsd_prior:
        return load_unet(at_home(settings.vsd_prior), frozen_dtype(settings))
    if settings.whole_layers != "conv_in":
        log.warning(
            "VSD distils from the trained UNet as it was, its new blocks included. TVT distils from Stable Diffusion "
            "2.1-base: name its unet folder with --vsd-prior."
        )
    return None
