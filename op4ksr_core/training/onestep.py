"""The method as a module that can be trained: LoRA on the VAE's encoder and on the transformer, all else frozen."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import flow
from ..colour import back_project
from ..geometry import Size
from ..loading import Adapter
from ..losses.autocorrelation import autocorrelation_loss
from ..losses.lrr import latent_refinement_loss
from ..losses.wavelet import wavelet_loss
from ..pipeline import Sources
from ..resample import resize
from ..rope import RotaryEmbedding
from ..vae import decode, downscale_factor, encode
from .settings import ENCODER_TARGETS, TRANSFORMER_TARGETS, TrainSettings


class OneStep(nn.Module):
    """LR picture -> (z_LR, restored latent, raw decoded picture), as the pipeline does it, with gradients.

    Only LoRA weights are trainable; they are float32. `hr_encoder` is the encoder as it was.
    """

    prompt: Tensor
    pooled: Tensor

    def __init__(self, transformer: Any, vae: Any, prompt: tuple[Tensor, Tensor], settings: TrainSettings):
        super().__init__()
        self.settings = settings
        self.hr_encoder = copy.deepcopy(vae.encoder).requires_grad_(False)
        self.transformer, self.vae = transformer, vae
        self.factor = downscale_factor(vae)
        """Picture px per latent px."""
        self.requires_grad_(False)
        self.configs = {
            "transformer": _inject(transformer, TRANSFORMER_TARGETS, settings),
            "vae": _inject(vae.encoder, ENCODER_TARGETS, settings),
        }
        transformer.pos_embed = RotaryEmbedding(settings.rope, transformer.config.axes_dims_rope)
        if settings.checkpointing:
            transformer.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
        self.register_buffer("prompt", prompt[0], persistent=False)
        self.register_buffer("pooled", prompt[1], persistent=False)

    @classmethod
    def load(cls, sources: Sources, settings: TrainSettings) -> "OneStep":
        """From the files of a model; frozen weights in bfloat16 where that is the precision. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        return cls(sources.load_transformer(dtype), sources.load_vae(dtype), sources.load_prompt(), settings)

    def encode_hr(self, hr: Tensor) -> Tensor:
        """z_HR by the frozen encoder."""
        adapted, self.vae.encoder = self.vae.encoder, self.hr_encoder
        try:
            with torch.no_grad():
                return encode(self.vae, hr.to(self.vae.dtype)).float()
        finally:
            self.vae.encoder = adapted

    def forward(self, lr: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        z_lr = encode(self.vae, resize(lr, size).to(self.vae.dtype)).float()
        z = z_lr - self.settings.sigma * self.velocity(z_lr)
        return z_lr, z, decode(self.vae, z.to(self.vae.dtype)).float()

    def velocity(self, z: Tensor) -> Tensor:
        """v(z, sigma_mid) with the fixed prompt."""
        batch, _, height, width = z.shape
        model = self.transformer
        dtype = model.dtype
        guidance = self.settings.guidance
        tokens = model(
            hidden_states=flow.pack(z).to(dtype),
            timestep=torch.full((batch,), self.settings.sigma, device=z.device),
            guidance=torch.full((batch,), guidance, device=z.device) if model.config.guidance_embeds else None,
            encoder_hidden_states=self.prompt.to(dtype).expand(batch, -1, -1),
            pooled_projections=self.pooled.to(dtype).expand(batch, -1),
            img_ids=flow.image_ids(height, width, z.device),
            txt_ids=torch.zeros(self.prompt.shape[1], 3, device=z.device),
            return_dict=False,
        )[0]
        return flow.unpack(tokens.float(), height, width)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The LoRA weights by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def adapters(self) -> dict[str, Adapter]:
        """What was learned, as `loading.find_adapters` gives it."""
        from peft import get_peft_model_state_dict

        found = {}
        for part, module in (("transformer", self.transformer), ("vae", self.vae.encoder)):
            state = {k: v.detach().cpu() for k, v in get_peft_model_state_dict(module).items()}
            found[part] = Adapter("this training", self.configs[part], state)
        return found


def _inject(module: Any, targets: Sequence[str], settings: TrainSettings) -> dict:
    """Adds a LoRA in place and returns PEFT's settings as plain values."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )
    inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return plain_config(config)


def plain_config(config: Any) -> dict:
    """A LoraConfig as JSON can hold it: sets sorted, enumerations by value."""
    values = {}
    for key, value in config.to_dict().items():
        value = sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        if value is None or isinstance(value, (str, int, float, bool, list, dict)):
            values[key] = value
    return values


def picture_losses(model: OneStep, batch: dict[str, Tensor], outputs: Sequence[Tensor]) -> tuple[dict, Tensor]:
    """(losses by name, unweighted, of those whose weight is not 0 and that need no further network; shown picture)."""
    settings, hr = model.settings, batch["hr"]
    z_lr, _, raw = outputs
    shown = back_project(raw, batch["lr"], settings.fidelity) if settings.fidelity else raw
    weights, losses = settings.losses, {}
    if weights.mse:
        losses["mse"] = F.mse_loss(shown, hr)
    if weights.l1:
        losses["l1"] = F.l1_loss(shown, hr)
    if weights.wavelet:
        losses["wavelet"] = wavelet_loss(shown, hr)
    if weights.periodicity:
        losses["periodicity"] = autocorrelation_loss(shown, hr, normalise=settings.normalise_periodicity)
    if weights.refinement:
        z_hr = model.encode_hr(hr)
        losses["refinement"] = latent_refinement_loss(z_lr, z_hr, noise_of(batch["seed"], z_hr), settings.sigma)
    return losses, shown


def noise_of(seeds: Tensor, like: Tensor) -> Tensor:
    """Gaussian noise in the shape of a batch, each sample's from its own seed."""
    drawn = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(int(s) + 1)) for s in seeds]
    return torch.stack(drawn).to(like)
