"""TVT's VAE-D4 (arXiv 2507.20291), trained in two stages from clean pictures.

The presets use scale 1 and the degradation `none`, so a sample's LR picture is the HR picture.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import WeightsError
from ...geometry import Size
from ...model.vae import NoMiddle, decode, downscale_factor, encode
from ...picture.resample import resize
from ...weights.files import check_keys, find_weights, save_diffusers
from ...weights.unet_sources import SD_VAE, UNetSources, load_sd_vae, new_sd_vae
from ..settings import TrainSettings
from .lora import trainable_weights
from .protocol import Batch, Restored
from .restoration import picture_losses

FOLDER = "vae"
"""The folder of a checkpoint that holds what was learned."""

HALVES = {"decoder": ("decoder.", "post_quant_conv."), "encoder": ("encoder.", "quant_conv.")}
"""Beginnings of an autoencoder's keys, by the stage that trains them."""


class VaeStrategy(nn.Module):
    """One half of VAE-D4 by reconstruction: picture -> latent -> picture.

    `decoder`: D4 learns D4(E8(picture enlarged twice)) = picture behind the frozen encoder of the model's own 8x VAE,
    so that the 4x latents have the statistics that the UNet knows. `encoder`: that decoder is frozen, and E4 learns
    D4(E4(picture)) = picture. All weights of that half are trained in float32, starting from random values.
    """

    takes_captions = False
    shardable = None
    distillation = None

    def __init__(self, vae: Any, settings: TrainSettings, teacher: Any = None):
        super().__init__()
        self.settings = settings
        self.vae = vae
        self.teacher = teacher
        self.requires_grad_(False)
        for name, parameter in vae.named_parameters():
            parameter.requires_grad_(name.startswith(HALVES[settings.stage]))
        if settings.checkpointing:
            vae.enable_gradient_checkpointing()

    @classmethod
    def load(cls, sources: UNetSources, settings: TrainSettings) -> "VaeStrategy":
        """`decoder` wants an 8x VAE, `encoder` the VAE of a checkpoint of that stage. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        if settings.stage == "encoder":
            return cls(_with_new_encoder(sources.vae), settings)
        teacher = load_sd_vae(sources.vae)
        return cls(_d4_beside(teacher, sources.vae), settings, teacher)

    @classmethod
    def without_weights(cls, sources: UNetSources, settings: TrainSettings) -> "VaeStrategy":
        """The same on the meta device, from config.json and the VAE's header. Raises WeightsError."""
        with torch.device("meta"):
            if settings.stage == "encoder":
                return cls(_described_d4(sources.vae), settings)
            teacher = new_sd_vae(sources.vae)
            return cls(_d4_beside(teacher, sources.vae), settings, teacher)

    @property
    def multiple(self) -> int:
        """A latent's side."""
        return downscale_factor(self.vae)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.vae.decoder.conv_out.weight

    def inputs(self, batch: Batch) -> tuple[Tensor, Size]:
        return batch["lr"], Size(*batch["hr"].shape[-2:])

    def forward(self, picture: Tensor, size: Size) -> Restored:
        """A clean picture (B, 3, H, W) in [0, 1], which has that size; both latents are the same."""
        if self.teacher is None:
            z = encode(self.vae, picture)
        else:
            with torch.no_grad():
                z = encode(self.teacher, resize(picture, Size(2 * size.height, 2 * size.width)))
        return Restored(z, z, decode(self.vae, z).float())

    def losses(self, batch: Batch, outputs: Restored) -> tuple[dict[str, Tensor], Tensor]:
        return picture_losses(self.settings, batch, outputs.picture)

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable_weights(self)

    def export(self) -> Callable[[Path], None]:
        """The VAE as a diffusers folder; after the decoder stage only its decoder."""
        state = {key: value.detach().float().cpu().clone() for key, value in self.vae.state_dict().items()}
        if self.settings.stage == "decoder":
            state = {key: value for key, value in state.items() if key.startswith(HALVES["decoder"])}
        return lambda folder: save_diffusers(folder / FOLDER, "AutoencoderKL", dict(self.vae.config), state)


def _d4_beside(teacher: Any, path: Path) -> Any:
    """VAE-D4 for the latents of an 8x VAE, which comes from `path`. Raises WeightsError on another factor."""
    if downscale_factor(teacher) != 8:
        raise WeightsError(
            f"{path} compresses {downscale_factor(teacher)}x; the decoder stage starts from an 8x VAE of "
            "Stable Diffusion (--model or --vae)."
        )
    first, second = list(teacher.config.block_out_channels)[:2]
    return _new_d4([first, second, second], dict(teacher.config))


def _new_d4(channels: list[int], base: dict[str, Any]) -> Any:
    """A 4x autoencoder without a middle block: three levels, the rest as in the 8x one that it stands beside."""
    from diffusers import AutoencoderKL

    same = ("latent_channels", "layers_per_block", "norm_num_groups", "scaling_factor", "shift_factor")
    vae: Any = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=channels,
        use_quant_conv=True,
        use_post_quant_conv=True,
        mid_block_add_attention=False,
        **{key: base[key] for key in same},
    )
    vae.encoder.mid_block = vae.decoder.mid_block = NoMiddle()
    return vae.float()


def _described_d4(path: Path) -> Any:
    """VAE-D4 as the files at `path`, which the decoder stage wrote, describe it, with random weights."""
    files = find_weights(path)
    shapes = files.shapes()
    config = SD_VAE | (files.config or {})
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or len(channels) != 3 or "decoder.conv_in.weight" not in shapes:
        raise WeightsError(
            f"{path} is no VAE-D4 with its config.json: the encoder stage starts from a checkpoint of the decoder "
            "stage (--vae RUN/checkpoints/step-NNNNNN/vae)."
        )
    config |= {"latent_channels": shapes["decoder.conv_in.weight"][1]}
    return _new_d4(channels, {"layers_per_block": 2} | config)


def _with_new_encoder(path: Path) -> Any:
    """VAE-D4 with the decoder at `path`, as the decoder stage wrote it, and an encoder with random weights."""
    vae = _described_d4(path)
    held = find_weights(path).tensors()
    state = {key: value for key, value in held.items() if not key.startswith(HALVES["encoder"])}
    own = vae.state_dict()
    expected = {key: tuple(value.shape) for key, value in own.items() if key.startswith(HALVES["decoder"])}
    check_keys(str(path), expected, {key: tuple(value.shape) for key, value in state.items()})
    vae.load_state_dict(own | {key: value.float() for key, value in state.items()})
    return vae
