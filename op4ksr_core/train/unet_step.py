"""OSEDiff's, TVT's and F2IDiff-SR's step as a module that can be trained: LoRA on the encoder and the UNet."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import at_home
from ..geometry import Size
from ..model import diffusion
from ..model.vae import decode, downscale_factor, encode
from ..picture.resample import resize
from ..weights.adapters import Adapter
from ..weights.prompt_files import load_tokens
from ..weights.unet_adapters import BASE, UNetAdapter, save_unet_adapter
from ..weights.unet_sources import UNetSources
from .losses.vsd import guided, vsd_loss
from .onestep import REGULARISER, SINGLE, OneStep, inject, load_negative, worn
from .settings import TrainSettings
from .sharding import whole

UNET_TARGETS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_in conv_shortcut conv_out proj_out proj_in ff.net.2 ff.net.0.proj"
).split()
VAE_TARGETS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0".split()
"""OSEDiff's LoRA targets (arXiv 2406.08177); the encoder's come with quant_conv."""


class UNetOneStep(OneStep):
    """LR picture -> (z_LR, restored latent, raw decoded picture) by one step of a UNet, with gradients.

    Trainable are LoRA weights on UNet, encoder and quant_conv, and the UNet's conv_in whole, all float32. `extractor`
    is DINOv2 where the picture itself conditions the UNet; VSD then knows no guidance, for it has no other condition.
    """

    prompt: Tensor | None  # type: ignore[assignment]
    negative: Tensor | None  # type: ignore[assignment]
    bars: Tensor
    condition: Tensor
    """What the last picture's UNet was conditioned by."""

    def __init__(
        self,
        unet: Any,
        vae: Any,
        condition: Tensor | None,
        settings: TrainSettings,
        negative: Tensor | None = None,
        prediction: diffusion.Prediction = "epsilon",
        extractor: Any = None,
    ):
        nn.Module.__init__(self)
        self.settings, self.prediction, self.extractor = settings, prediction, extractor
        self.hr_encoder = copy.deepcopy(vae.encoder).requires_grad_(False)
        self.transformer, self.vae = unet, vae
        self.factor, self.channels = downscale_factor(vae), int(vae.config.latent_channels)
        self.requires_grad_(False)
        inside = [n for n, m in vae.named_modules() if n.startswith("encoder.") and _is_layer(m)]
        targets = [n for n in inside if n.endswith(tuple(VAE_TARGETS))] + ["quant_conv"]
        self.configs = {"unet": inject(unet, UNET_TARGETS, settings), "vae": inject(vae, targets, settings)}
        if settings.losses.vsd:
            inject(unet, UNET_TARGETS, settings, REGULARISER)
        first = unet.conv_in.base_layer
        for parameter in first.parameters():
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
        self.first_layer = {name: p.detach().clone() for name, p in first.named_parameters()}
        if settings.checkpointing:
            unet.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
        self.register_buffer("prompt", condition, persistent=False)
        self.register_buffer("negative", negative, persistent=False)
        self.register_buffer("bars", diffusion.alpha_bars().float(), persistent=False)

    @classmethod
    def load(cls, sources: UNetSources, settings: TrainSettings) -> "UNetOneStep":  # type: ignore[override]
        """From a diffusers folder. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        negative = None
        if settings.losses.vsd and sources.features is None:
            negative = _negative(settings)
        extractor = sources.load_features() if sources.features is not None else None
        parts = (sources.load_transformer(dtype), sources.load_vae(torch.float32), sources.load_condition())
        return cls(*parts, settings, negative, sources.prediction, extractor)

    @property
    def multiple(self) -> int:
        return self.factor * 2 ** (len(self.transformer.config.block_out_channels) - 1)

    def forward(self, lr: Tensor, size: Size, prompt: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`prompt` (B, L, D): each picture's own tokens, in place of the fixed ones."""
        large = resize(lr, size)
        self.condition = self._condition_of(large) if prompt is None else prompt
        z_lr = encode(self.vae, large.to(self.vae.dtype)).float()
        at = torch.full((len(z_lr),), self.settings.timestep, device=z_lr.device)
        z = self._clean(z_lr, at, self.condition)
        return z_lr, z, decode(self.vae, z.to(self.vae.dtype)).float()

    def _condition_of(self, large: Tensor) -> Tensor:
        if self.extractor is not None:
            return diffusion.picture_tokens(self.extractor, large)
        assert self.prompt is not None
        return self.prompt

    def _clean(self, z: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        predicted = diffusion.unet_prediction(self.transformer, z, timesteps, condition)
        return diffusion.clean(z, predicted, self.bars[timesteps].view(-1, 1, 1, 1), self.prediction)

    @contextmanager
    def wearing(self, adapter: str | None) -> Iterator[None]:
        """As in a FLUX model; the prior has no positions of its own, but its conv_in back."""
        first = self.transformer.conv_in.base_layer
        learned = {name: p.data for name, p in first.named_parameters()}
        for name, parameter in first.named_parameters():
            parameter.data = self.first_layer[name].to(parameter.device)
            parameter.requires_grad_(False)  # what the regulariser learns is not its own
        try:
            with worn(self.transformer, adapter):
                yield
        finally:
            for name, parameter in first.named_parameters():
                parameter.data = learned[name]
                parameter.requires_grad_(True)

    def distillation_loss(self, z: Tensor, seeds: Tensor) -> Tensor:
        condition = self.condition
        if self.settings.vsd_quadrants:
            z = rearrange(z, "b c (i h) (j w) -> (b i j) c h w", i=2, j=2)
            seeds = (4 * seeds[:, None] + torch.arange(4, device=seeds.device)).flatten()
            if len(condition) > 1:
                condition = condition.repeat_interleave(4, 0)
        state, at, _ = diffusion.noised_at_random(z.detach(), seeds, 2, self.bars, self.settings.vsd_range)
        with torch.no_grad():
            with self.wearing(None):
                fixed = self._clean(state, at, condition)
                if self.negative is not None:
                    fixed = guided(fixed, self._clean(state, at, self.negative), self.settings.vsd_guidance)
            with self.wearing(REGULARISER):
                updated = self._clean(state, at, condition)
        return vsd_loss(z, fixed, updated)

    def regulariser_loss(self, z: Tensor, seeds: Tensor) -> Tensor:
        """The noise of restored latents (detached), or their v: what the regulariser learns. Call it `wearing` that."""
        state, at, noise = diffusion.noised_at_random(z, seeds, 4, self.bars, (0.001, 0.999))
        predicted = diffusion.unet_prediction(self.transformer, state, at, self.condition)
        return F.mse_loss(predicted, diffusion.target(z, noise, self.bars[at].view(-1, 1, 1, 1), self.prediction))

    def adapter_writer(self) -> Callable[[Path], None]:
        """Writes `adapters.safetensors` in the form that *Load OSEDiff or TVT adapter* and `--adapter` read."""
        adapter = self.unet_adapter()
        return lambda folder: save_unet_adapter(folder / SINGLE, adapter)

    def unet_adapter(self) -> UNetAdapter:
        """What was learned."""
        from peft import get_peft_model_state_dict

        lora = {}
        for part, module in (("unet", self.transformer), ("vae", self.vae)):
            state = {k: whole(v) for k, v in get_peft_model_state_dict(module).items()}
            lora[part] = Adapter("this training", self.configs[part], state)
        first = {f"conv_in.{name}": whole(p) for name, p in self.transformer.conv_in.base_layer.named_parameters()}
        family = "tvt" if self.settings.vsd_quadrants else "f2idiff" if self.extractor is not None else "osediff"
        return UNetAdapter("this training", family, BASE, lora, {"unet": first, "vae": {}})


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv2d))


def _negative(settings: TrainSettings) -> Tensor:
    """The tokens of VSD's negative prompt, from a prompt file of Stable Diffusion or of FLUX."""
    path = at_home(settings.negative) if settings.negative else None
    if path is None or not path.is_file():
        load_negative(settings)  # which says what is wanted
    return load_tokens(path or "")
