"""The method as a module that can be trained: LoRA on the VAE's encoder and on the transformer, all else frozen."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WeightsError
from ..files import at_home
from ..geometry import Size
from ..lattice.autocorrelation import autocorrelation_loss
from ..model import flow
from ..model.rope import RotaryEmbedding
from ..model.vae import decode, downscale_factor, encode
from ..picture.colour import back_project
from ..picture.resample import resize
from ..weights.adapters import Adapter, save_adapter_folders, save_adapters
from ..weights.prompt_files import load_prompt
from ..weights.sources import Sources
from .losses.lrr import latent_refinement_loss
from .losses.vsd import VSDLoss
from .losses.wavelet import wavelet_loss
from .settings import ENCODER_TARGETS, TRANSFORMER_TARGETS, TrainSettings
from .sharding import whole

SINGLE = "adapters.safetensors"
"""The file of a checkpoint that ComfyUI's loaders read."""

REGULARISER = "regulariser"
"""The second LoRA on the transformer, which VSD lets learn what the first one makes."""


class OneStep(nn.Module):
    """LR picture -> (z_LR, restored latent, raw decoded picture), as the pipeline does it, with gradients.

    Only LoRA weights are trainable; they are float32. `hr_encoder` is the encoder as it was. With a weight on VSD the
    transformer has a second LoRA, and `negative` is the prompt that its prior is guided away from.
    """

    prompt: Tensor
    pooled: Tensor
    negative: Tensor
    negative_pooled: Tensor

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
        self.transformer, self.vae = transformer, vae
        self.factor = downscale_factor(vae)
        """Picture px per latent px."""
        self.channels = int(vae.config.latent_channels)
        self.requires_grad_(False)
        self.configs = {
            "transformer": inject(transformer, TRANSFORMER_TARGETS, settings),
            "vae": inject(vae.encoder, ENCODER_TARGETS, settings),
        }
        if settings.losses.vsd:
            inject(transformer, TRANSFORMER_TARGETS, settings, REGULARISER)
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
    def load(cls, sources: Sources, settings: TrainSettings) -> "OneStep":
        """From the files of a model; frozen weights in bfloat16 where that is the precision. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        negative = load_negative(settings)
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        return cls(sources.load_transformer(dtype), sources.load_vae(dtype), sources.load_prompt(), settings, negative)

    def inputs_of(self, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """What `forward` is given of a batch."""
        prompts = (batch["prompt"],) if "prompt" in batch else ()
        return batch["lr"], Size(*batch["hr"].shape[-2:]), *prompts

    def losses(self, batch: dict[str, Tensor], outputs: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """(losses by name, unweighted, of those whose weight is not 0 and that need no further network; the picture
        that they see, if there is one)."""
        return picture_losses(self, batch, outputs)

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
        sigma = torch.full((len(z_lr),), self.settings.sigma, device=z_lr.device)
        z = z_lr - self.settings.sigma * self.velocity(z_lr, sigma, self.prompt, self.pooled)
        return z_lr, z, decode(self.vae, z.to(self.vae.dtype)).float()

    def velocity(self, z: Tensor, sigma: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        """v(z, sigma) under a prompt; sigma is (B,)."""
        return flow.transformer_velocity(self.transformer, z, sigma, prompt, pooled, self.settings.guidance)

    @contextmanager
    def wearing(self, adapter: str | None) -> Iterator[None]:
        """Runs the transformer with another of its LoRAs, or with none: as the prior that it was.

        Both run at the positions that the prior was trained with: at the student's theta its velocity would be another
        (by 55 to 77 % on the embedded model's predecessor).
        """
        own_positions = self.transformer.pos_embed
        self.transformer.pos_embed = self.prior_positions
        try:
            with worn(self.transformer, adapter):
                yield
        finally:
            self.transformer.pos_embed = own_positions

    def distillation_loss(self, z: Tensor, seeds: Tensor) -> Tensor:
        """VSD of restored latents at a random sigma: the guided prior against the regulariser."""
        state, sigma, _ = noised(z.detach(), seeds, 2, self.settings.vsd_range)
        with torch.no_grad():
            with self.wearing(None):
                conditional = self.velocity(state, sigma, self.prompt, self.pooled)
                unconditional = self.velocity(state, sigma, self.negative, self.negative_pooled)
            with self.wearing(REGULARISER):
                updated = self.velocity(state, sigma, self.prompt, self.pooled)
        return VSDLoss(self.settings.vsd_guidance)(z, state, sigma, conditional, unconditional, updated)

    def regulariser_loss(self, z: Tensor, seeds: Tensor) -> Tensor:
        """Flow matching on restored latents (detached): what the regulariser learns. Call it `wearing` that."""
        state, sigma, noise = noised(z, seeds, 4)
        return F.mse_loss(self.velocity(state, sigma, self.prompt, self.pooled), noise - z)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The method's own LoRA weights by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad and f".{REGULARISER}." not in n}

    def regulariser(self) -> dict[str, nn.Parameter]:
        """The regulariser's weights by name; empty without VSD."""
        return {name: p for name, p in self.named_parameters() if f".{REGULARISER}." in name}

    @property
    def multiple(self) -> int:
        """Sides of a crop are multiples of this, px: a token's side."""
        return 2 * self.factor

    def adapter_writer(self) -> Callable[[Path], None]:
        """Writes what was learned into a folder: the two PEFT folders, and `adapters.safetensors` with both.

        Sharded: to be called in all processes at once; the writer by one.
        """
        adapters = self.adapters()

        def write(folder: Path) -> None:
            save_adapter_folders(folder, adapters)
            save_adapters(folder / SINGLE, adapters)

        return write

    def adapters(self) -> dict[str, Adapter]:
        """What was learned, as `adapters.find_adapters` gives it. Sharded: to be called in all processes at once."""
        from peft import get_peft_model_state_dict

        found = {}
        for part, module in (("transformer", self.transformer), ("vae", self.vae.encoder)):
            state = {k: whole(v) for k, v in get_peft_model_state_dict(module).items()}
            found[part] = Adapter("this training", self.configs[part], state)
        return found


@contextmanager
def worn(network: nn.Module, adapter: str | None) -> Iterator[None]:
    """Runs a network with another of its LoRAs, or with none; afterwards as before."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:  # not by set_adapter, which also changes what requires a gradient
        layer._active_adapter, layer._disable_adapters = [adapter] if adapter else [], adapter is None
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def load_negative(settings: TrainSettings) -> tuple[Tensor, Tensor] | None:
    """VSD's unconditional prompt. Raises WeightsError where VSD has a weight and there is no such file."""
    if not settings.losses.vsd:
        return None
    path = at_home(settings.negative) if settings.negative else None
    if path is None or not path.is_file():
        raise WeightsError(
            "VSD wants a prompt file for its unconditional prior (--negative FILE; `op4ksr embed-prompt --text ''` "
            f"makes it), got {path or 'none'}. Or set the weight of vsd to 0."
        )
    return load_prompt(path)


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


def inject(module: Any, targets: Sequence[str], settings: TrainSettings, name: str = "default") -> dict:
    """Adds a LoRA in place and returns PEFT's settings as plain values. The first one stays the active one."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )
    inject_adapter_in_model(config, module, adapter_name=name)
    for key, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in key)
        if "lora_" in key:
            parameter.data = parameter.data.float()
    for layer in (layer for layer in module.modules() if isinstance(layer, LoraLayer)):
        layer._active_adapter = ["default"]
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
        losses["periodicity"] = autocorrelation_loss(
            shown, hr, normalise=settings.lap_normalise, highpassed=settings.lap_highpass
        )
    if weights.refinement:
        z_hr = model.encode_hr(hr)
        losses["refinement"] = latent_refinement_loss(z_lr, z_hr, noise_of(batch["seed"], z_hr), settings.sigma)
    return losses, shown


def noise_of(seeds: Tensor, like: Tensor) -> Tensor:
    """Gaussian noise in the shape of a batch, each sample's from its own seed."""
    drawn = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(int(s) + 1)) for s in seeds]
    return torch.stack(drawn).to(like)
