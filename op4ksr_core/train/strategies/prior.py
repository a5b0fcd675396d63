"""F2IDiff-SR's prior: a UNet that learns to denoise latents of clean pictures.

The preset uses scale 1 and the degradation `none`.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import WeightsError
from ...model import diffusion
from ...model.vae import downscale_factor, encode
from ...weights.files import read_json, save_diffusers
from ...weights.unet_sources import UNetSources, new_sd_vae, new_unet
from ..settings import TrainSettings
from .lora import trainable_weights
from .protocol import Batch

log = logging.getLogger("op4ksr")

FOLDER = "unet"
"""The folder of a checkpoint that holds what was learned."""


class Denoised(NamedTuple):
    """What the UNet predicts of noised latents, and what it should, both (B, 4, h, w)."""

    predicted: Tensor
    wanted: Tensor


class PriorStrategy(nn.Module):
    """The UNet that F2IDiff-SR starts from, conditioned on DINOv2's tokens of the same picture.

    All weights of the UNet are trained in float32. A share `drop_condition` of the pictures gets zeros in place of the
    tokens, which makes classifier-free guidance possible; the paper does not say whether it does this.
    """

    bars: Tensor

    takes_captions = False
    shardable = None
    last_layer = None
    distillation = None

    def __init__(self, unet: Any, vae: Any, extractor: Any, settings: TrainSettings, prediction: diffusion.Prediction):
        super().__init__()
        self.settings = settings
        self.prediction = prediction
        self.transformer = unet
        self.vae = vae
        self.extractor = extractor
        self.requires_grad_(False)
        unet.requires_grad_(True)
        if settings.checkpointing:
            unet.enable_gradient_checkpointing()
        self.register_buffer("bars", diffusion.alpha_bars().float(), persistent=False)

    @classmethod
    def load(cls, sources: UNetSources, settings: TrainSettings) -> "PriorStrategy":
        """The VAE, DINOv2 and the UNet of `unet/config.json`, with random weights where there is no weight file."""
        torch.manual_seed(settings.seed)
        extractor = _features(sources, sources.load_features)
        unet = _unet(sources, int(extractor.config.hidden_size))
        return cls(unet, sources.load_vae(torch.float32), extractor, settings, sources.prediction)

    @classmethod
    def without_weights(cls, sources: UNetSources, settings: TrainSettings) -> "PriorStrategy":
        """The same on the meta device, from config.json and the VAE's header. Raises WeightsError."""
        with torch.device("meta"):
            extractor = _features(sources, sources.new_features)
            unet = new_unet(sources.unet, _config(sources.unet), cross_attention_dim=int(extractor.config.hidden_size))
            return cls(unet, new_sd_vae(sources.vae), extractor, settings, "epsilon")

    @property
    def multiple(self) -> int:
        """What the UNet's coarsest level takes."""
        return downscale_factor(self.vae) * 2 ** (len(self.transformer.config.block_out_channels) - 1)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch["hr"], batch["seed"]

    def forward(self, picture: Tensor, seeds: Tensor) -> Denoised:
        """Clean pictures (B, 3, H, W) in [0, 1], noised by their seeds (B,)."""
        with torch.no_grad():
            z = encode(self.vae, picture.to(self.vae.dtype)).float()
            condition = diffusion.picture_tokens(self.extractor, picture)
        dice = [torch.Generator().manual_seed(int(seed) + 7_919 * 6) for seed in seeds]
        kept = torch.stack([torch.rand((), generator=g) >= self.settings.drop_condition for g in dice])
        condition = condition * kept.to(condition).view(-1, 1, 1)
        state, at, noise = diffusion.noised_at_random(z, seeds, 5, self.bars)
        predicted = diffusion.unet_prediction(self.transformer, state, at, condition)
        wanted = diffusion.target(z, noise, self.bars[at].view(-1, 1, 1, 1), self.prediction)
        return Denoised(predicted, wanted)

    def losses(self, batch: Batch, outputs: Denoised) -> tuple[dict[str, Tensor], None]:
        return {"denoising": F.mse_loss(outputs.predicted, outputs.wanted)}, None

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable_weights(self)

    def export(self) -> Callable[[Path], None]:
        """The UNet as a diffusers folder, and beside it what it predicts."""
        state = {key: value.detach().float().cpu().clone() for key, value in self.transformer.state_dict().items()}

        def write(folder: Path) -> None:
            save_diffusers(folder / FOLDER, "UNet2DConditionModel", dict(self.transformer.config), state)
            (folder / "scheduler").mkdir()
            text = json.dumps({"prediction_type": self.prediction}) + "\n"
            (folder / "scheduler" / "scheduler_config.json").write_text(text)

        return write


def _features(sources: UNetSources, make: Callable[[], Any]) -> Any:
    if sources.features is None:
        raise WeightsError("The prior is conditioned on DINOv2: name its transformers folder with --dino.")
    return make()


def _config(place: Path) -> dict | None:
    """What the config.json of a folder says, if there is one."""
    return read_json(place / "config.json") if (place / "config.json").is_file() else None


def _unet(sources: UNetSources, width: int) -> Any:
    """The UNet of the sources; a folder that holds nothing but a config.json gives one with random weights, its
    condition `width` wide."""
    place = sources.unet
    if not place.is_dir() or {path.name for path in place.iterdir()} - {"config.json"}:
        return sources.load_transformer(torch.float32)
    log.info("%s holds no weights: the UNet starts from random ones", place)
    return new_unet(place, _config(place), cross_attention_dim=width)
