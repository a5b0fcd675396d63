"""OP4KSR's and OMGSR's step: LoRA on the VAE's encoder and on the flow transformer, all else frozen."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...geometry import LATENT_FACTOR, Size
from ...model import flow
from ...model.rope import RotaryEmbedding
from ...model.vae import decode, downscale_factor, encode
from ...picture.resample import resize
from ...weights.adapters import Adapter, save_adapter_folders, save_adapters
from ...weights.prompt_files import load_prompt
from ...weights.sources import Sources
from ...weights.trained_for import TrainedFor
from ..losses.vsd import VSDLoss
from ..precision import frozen_dtype
from ..settings import ENCODER_TARGETS, TRANSFORMER_TARGETS, TrainSettings
from .lora import REGULARISER, SINGLE, active_lora, add_lora, read_lora, regulariser_weights, trainable_weights
from .negative import negative_file
from .protocol import Batch, Restored
from .restoration import posterior_seed, restoration_losses


class FlowStrategy(nn.Module):
    """LR picture -> restored picture, as the pipeline does it, with gradients.

    Only LoRA weights are trainable; they are float32. `hr_encoder` is the encoder as it was. With a weight on VSD the
    transformer has a second LoRA, and `negative` is the prompt that its prior is guided away from.
    """

    prompt: Tensor
    pooled: Tensor
    negative: Tensor
    negative_pooled: Tensor

    takes_captions = False
    last_layer = None

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        prompt: tuple[Tensor, Tensor],
        settings: TrainSettings,
        negative: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.settings = settings
        self.hr_encoder = copy.deepcopy(vae.encoder).requires_grad_(False)
        self.transformer = transformer
        self.vae = vae
        self.factor = downscale_factor(vae)
        """Picture px per latent px."""
        self.channels = int(vae.config.latent_channels)
        self.requires_grad_(False)
        self.configs = {"transformer": add_lora(transformer, TRANSFORMER_TARGETS, settings)}
        if settings.encoder_lora:
            self.configs["vae"] = add_lora(vae.encoder, ENCODER_TARGETS, settings)
        self.distillation = None
        if settings.losses.vsd:
            add_lora(transformer, TRANSFORMER_TARGETS, settings, REGULARISER)
            self.distillation = FlowDistillation(self)
        axes = transformer.config.axes_dims_rope
        transformer.pos_embed = RotaryEmbedding(settings.rope, axes)
        self.prior_positions = RotaryEmbedding(settings.prior_rope, axes)
        if settings.checkpointing:
            transformer.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
        self.register_buffer("prompt", prompt[0], persistent=False)
        self.register_buffer("pooled", prompt[1], persistent=False)
        for name, part in zip(("negative", "negative_pooled"), negative or (None, None), strict=True):
            self.register_buffer(name, part, persistent=False)

    @classmethod
    def load(cls, sources: Sources, settings: TrainSettings) -> "FlowStrategy":
        """From the files of a model; frozen weights in bfloat16 where that is the precision. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        negative = load_prompt(negative_file(settings)) if settings.losses.vsd else None
        dtype = frozen_dtype(settings)
        return cls(sources.load_transformer(dtype), sources.load_vae(dtype), sources.load_prompt(), settings, negative)

    @property
    def multiple(self) -> int:
        """A token's side."""
        return 2 * self.factor

    @property
    def shardable(self) -> nn.Module:
        return self.transformer

    def inputs(self, batch: Batch) -> tuple[Tensor, Size, int | None]:
        return batch["lr"], Size(*batch["hr"].shape[-2:]), posterior_seed(self.settings, batch)

    def forward(self, lr: Tensor, size: Size, seed: int | None = None) -> Restored:
        """(B, 3, h, w) in [0, 1], and the size in px that it is restored at. `seed` samples the encoder's posterior;
        without it, its mode."""
        z_lr = encode(self.vae, resize(lr, size).to(self.vae.dtype), seed).float()
        sigma = torch.full((len(z_lr),), self.settings.sigma, device=z_lr.device)
        z = flow.clean_latent(z_lr, self.velocity(z_lr, sigma, self.prompt, self.pooled), sigma)
        return Restored(z_lr, z, decode(self.vae, z.to(self.vae.dtype)).float())

    def velocity(self, z: Tensor, sigma: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        """v(z, sigma) under a prompt; sigma is (B,)."""
        return flow.transformer_velocity(self.transformer, z, sigma, prompt, pooled, self.settings.guidance)

    def losses(self, batch: Batch, outputs: Restored) -> tuple[dict[str, Tensor], Tensor]:
        return restoration_losses(self.settings, batch, outputs, self.vae, self.hr_encoder)

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable_weights(self)

    def export(self) -> Callable[[Path], None]:
        """The two PEFT folders, and `adapters.safetensors` with both."""
        adapters, said = self.adapters(), self.trained_for().as_metadata()

        def write(folder: Path) -> None:
            save_adapter_folders(folder, adapters, said)
            save_adapters(folder / SINGLE, adapters, said)

        return write

    def trained_for(self) -> TrainedFor:
        """What inference must share with this training."""
        preset = "op4ksr" if self.factor == LATENT_FACTOR else "omgsr"
        return TrainedFor(
            preset, self.factor, self.settings.sigma, self.settings.rope, prompt_tokens=self.prompt.shape[1]
        )

    def adapters(self) -> dict[str, Adapter]:
        """What was learned, as `adapters.find_adapters` gives it. Sharded: to be called in all processes at once."""
        parts = {"transformer": self.transformer, "vae": self.vae.encoder}
        return {name: read_lora(parts[name], config) for name, config in self.configs.items()}


class FlowDistillation:
    """VSD on velocities at a random sigma, for the strategy whose transformer has the second LoRA."""

    def __init__(self, strategy: FlowStrategy):
        self.strategy = strategy
        self.settings = strategy.settings

    def weights(self) -> dict[str, nn.Parameter]:
        return regulariser_weights(self.strategy)

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[None]:
        """Both the prior and the regulariser run at the positions that the prior was trained with: at the student's
        theta its velocity would be another (by 55 to 77 % on the embedded model's predecessor)."""
        transformer = self.strategy.transformer
        own_positions = transformer.pos_embed
        transformer.pos_embed = self.strategy.prior_positions
        try:
            with active_lora(transformer, adapter):
                yield
        finally:
            transformer.pos_embed = own_positions

    def loss(self, restored: Restored, seeds: Tensor) -> Tensor:
        """The guided prior against the regulariser."""
        step = self.strategy
        state, sigma, _ = noised(restored.z.detach(), seeds, 2, self.settings.vsd_range)
        with torch.no_grad():
            with self.active(None):
                conditional = step.velocity(state, sigma, step.prompt, step.pooled)
                unconditional = step.velocity(state, sigma, step.negative, step.negative_pooled)
            with self.active(REGULARISER):
                updated = step.velocity(state, sigma, step.prompt, step.pooled)
        return VSDLoss(self.settings.vsd_guidance)(restored.z, state, sigma, conditional, unconditional, updated)

    def regulariser_loss(self, restored: Restored, seeds: Tensor) -> Tensor:
        """Flow matching on the restored latents."""
        z = restored.z.detach()
        state, sigma, noise = noised(z, seeds, 4)
        return F.mse_loss(self.strategy.velocity(state, sigma, self.strategy.prompt, self.strategy.pooled), noise - z)


def noised(
    z: Tensor, seeds: Tensor, stream: int, span: tuple[float, float] = (0.02, 0.98)
) -> tuple[Tensor, Tensor, Tensor]:
    """(state, sigma, noise) of a batch at sigmas in `span`, each sample's from its own seed and stream."""
    generators = [torch.Generator().manual_seed(int(seed) + 7_919 * stream) for seed in seeds]
    low, high = span
    sigma = torch.stack([low + (high - low) * torch.rand((), generator=g) for g in generators]).to(z)
    noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators]).to(z)
    s = sigma.view(-1, 1, 1, 1)
    return (1 - s) * z + s * noise, sigma, noise
