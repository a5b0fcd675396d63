"""Training stages that come before a one-step model: TVT's two VAE stages, and F2IDiff-SR's prior.

All of them learn from clean pictures: their presets use scale 1 and the degradation `none`, so a sample's LR picture
is the HR picture.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WeightsError
from ..geometry import Size
from ..model import diffusion
from ..model.vae import NoMiddle, decode, downscale_factor, encode
from ..picture.resample import resize
from ..weights.files import check_keys, find_weights, read_json, save_diffusers
from ..weights.unet_sources import SD_VAE, UNetSources, load_sd_vae, new_unet
from .onestep import OneStep
from .settings import TrainSettings

log = logging.getLogger("op4ksr")

VAE_FOLDER, UNET_FOLDER = "vae", "unet"
"""Folders of a checkpoint that hold what was learned."""

HALVES = {"decoder": ("decoder.", "post_quant_conv."), "encoder": ("encoder.", "quant_conv.")}
"""Beginnings of an autoencoder's keys, by the stage that trains them."""


class VaeStage(OneStep):
    """One half of TVT's VAE-D4 (arXiv 2507.20291) by reconstruction: pictures -> (latent, latent, pictures made).

    `decoder`: D4 learns D4(E8(picture enlarged twice)) = picture behind the frozen encoder of the model's own 8x VAE,
    so that the 4x latents have the statistics that the UNet knows. `encoder`: that decoder is frozen, and E4 learns
    D4(E4(picture)) = picture. All weights of that half are trained in float32, starting from random values.
    """

    def __init__(self, vae: Any, settings: TrainSettings, teacher: Any = None):
        nn.Module.__init__(self)
        self.settings, self.vae, self.teacher = settings, vae, teacher
        self.factor, self.channels = downscale_factor(vae), int(vae.config.latent_channels)
        self.requires_grad_(False)
        for name, parameter in vae.named_parameters():
            parameter.requires_grad_(name.startswith(HALVES[settings.stage]))
        if settings.checkpointing:
            vae.enable_gradient_checkpointing()

    @classmethod
    def load(cls, sources: UNetSources, settings: TrainSettings) -> "VaeStage":  # type: ignore[override]
        """`decoder` wants an 8x VAE, `encoder` the VAE of a checkpoint of that stage. Raises WeightsError."""
        torch.manual_seed(settings.seed)
        if settings.stage == "encoder":
            return cls(_with_new_encoder(sources.vae), settings)
        teacher = load_sd_vae(sources.vae)
        if downscale_factor(teacher) != 8:
            raise WeightsError(
                f"{sources.vae} compresses {downscale_factor(teacher)}x; the decoder stage starts from an 8x VAE of "
                "Stable Diffusion (--model or --vae)."
            )
        first, second = list(teacher.config.block_out_channels)[:2]
        vae = _new_d4([first, second, second], dict(teacher.config))
        return cls(vae, settings, teacher)

    @property
    def multiple(self) -> int:
        return self.factor

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the adaptive weight of the adversarial loss compares gradients."""
        return self.vae.decoder.conv_out.weight

    def forward(self, picture: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        if self.teacher is None:
            z = encode(self.vae, picture)
        else:
            with torch.no_grad():
                z = encode(self.teacher, resize(picture, Size(2 * size.height, 2 * size.width)))
        return z, z, decode(self.vae, z).float()

    def adapter_writer(self) -> Callable[[Path], None]:
        """Writes the VAE as a diffusers folder; after the decoder stage only its decoder."""
        state = {key: value.detach().float().cpu() for key, value in self.vae.state_dict().items()}
        if self.settings.stage == "decoder":
            state = {key: value for key, value in state.items() if key.startswith(HALVES["decoder"])}
        return lambda folder: save_diffusers(folder / VAE_FOLDER, "AutoencoderKL", dict(self.vae.config), state)


class Prior(OneStep):
    """F2IDiff-SR's foundation model: a UNet that learns to denoise latents of pictures, conditioned on DINOv2's tokens
    of the same picture. Gives (latent, the UNet's prediction, its target).

    All weights of the UNet are trained in float32. A share `drop_condition` of the pictures gets zeros in place of the
    tokens, which makes classifier-free guidance possible; the paper does not say whether it does this.
    """

    bars: Tensor

    def __init__(self, unet: Any, vae: Any, extractor: Any, settings: TrainSettings, prediction: diffusion.Prediction):
        nn.Module.__init__(self)
        self.settings, self.prediction = settings, prediction
        self.transformer, self.vae, self.extractor = unet, vae, extractor
        self.factor, self.channels = downscale_factor(vae), int(vae.config.latent_channels)
        self.requires_grad_(False)
        unet.requires_grad_(True)
        if settings.checkpointing:
            unet.enable_gradient_checkpointing()
        self.register_buffer("bars", diffusion.alpha_bars().float(), persistent=False)

    @classmethod
    def load(cls, sources: UNetSources, settings: TrainSettings) -> "Prior":  # type: ignore[override]
        """The VAE, DINOv2 and the UNet of `unet/config.json`, with random weights where there is no weight file."""
        if sources.features is None:
            raise WeightsError("The prior is conditioned on DINOv2: name its transformers folder with --dino.")
        torch.manual_seed(settings.seed)
        extractor = sources.load_features()
        unet = _unet(sources, int(extractor.config.hidden_size))
        return cls(unet, sources.load_vae(torch.float32), extractor, settings, sources.prediction)

    @property
    def multiple(self) -> int:
        return self.factor * 2 ** (len(self.transformer.config.block_out_channels) - 1)

    def inputs_of(self, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        return batch["hr"], batch["seed"]

    def forward(  # type: ignore[override]
        self, picture: Tensor, seeds: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            z = encode(self.vae, picture.to(self.vae.dtype)).float()
            condition = diffusion.picture_tokens(self.extractor, picture)
        dice = [torch.Generator().manual_seed(int(seed) + 7_919 * 6) for seed in seeds]
        kept = torch.stack([torch.rand((), generator=g) >= self.settings.drop_condition for g in dice])
        condition = condition * kept.to(condition).view(-1, 1, 1)
        state, at, noise = diffusion.noised_at_random(z, seeds, 5, self.bars)
        predicted = diffusion.unet_prediction(self.transformer, state, at, condition)
        return z, predicted, diffusion.target(z, noise, self.bars[at].view(-1, 1, 1, 1), self.prediction)

    def losses(self, batch: dict[str, Tensor], outputs: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        _, predicted, wanted = outputs
        return {"denoising": F.mse_loss(predicted, wanted)}, None

    def adapter_writer(self) -> Callable[[Path], None]:
        """Writes the UNet as a diffusers folder, and beside it what it predicts."""
        state = {key: value.detach().float().cpu() for key, value in self.transformer.state_dict().items()}

        def write(folder: Path) -> None:
            save_diffusers(folder / UNET_FOLDER, "UNet2DConditionModel", dict(self.transformer.config), state)
            (folder / "scheduler").mkdir()
            text = json.dumps({"prediction_type": self.prediction}) + "\n"
            (folder / "scheduler" / "scheduler_config.json").write_text(text)

        return write


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


def _with_new_encoder(path: Path) -> Any:
    """VAE-D4 with the decoder at `path`, as the decoder stage wrote it, and an encoder with random weights."""
    files = find_weights(path)
    state = {key: value for key, value in files.tensors().items() if not key.startswith(HALVES["encoder"])}
    config = SD_VAE | (files.config or {})
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or len(channels) != 3 or "decoder.conv_in.weight" not in state:
        raise WeightsError(
            f"{path} is no VAE-D4 with its config.json: the encoder stage starts from a checkpoint of the decoder "
            "stage (--vae RUN/checkpoints/step-NNNNNN/vae)."
        )
    config |= {"latent_channels": state["decoder.conv_in.weight"].shape[1]}
    vae = _new_d4(channels, {"layers_per_block": 2} | config)
    own = vae.state_dict()
    expected = {key: tuple(value.shape) for key, value in own.items() if key.startswith(HALVES["decoder"])}
    check_keys(str(path), expected, {key: tuple(value.shape) for key, value in state.items()})
    vae.load_state_dict(own | {key: value.float() for key, value in state.items()})
    return vae


def _unet(sources: UNetSources, width: int) -> Any:
    """The UNet of the sources; a folder that holds nothing but a config.json gives one with random weights, its
    condition `width` wide."""
    place = sources.unet
    if not place.is_dir() or {path.name for path in place.iterdir()} - {"config.json"}:
        return sources.load_transformer(torch.float32)
    config = read_json(place / "config.json") if (place / "config.json").is_file() else None
    log.info("%s holds no weights: the UNet starts from random ones", place)
    return new_unet(place, config, cross_attention_dim=width)
