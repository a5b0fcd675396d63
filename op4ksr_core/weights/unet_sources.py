"""Where the parts of a Stable Diffusion family (OSEDiff, TVT, F2IDiff-SR) come from, and how they are loaded."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError, WeightsError
from ..files import at_home
from ..model.diffusion import PREDICTIONS, Prediction
from ..model.vae import NoMiddle
from .adapters import merge_adapter
from .configs import strided_by, vae_config
from .files import find_model, find_weights, load_strictly, read_json
from .prompt_files import load_tokens
from .unet_adapters import UNetAdapter, find_unet_adapter, replace_layers

SD_VAE = {"scaling_factor": 0.18215, "shift_factor": 0.0, "norm_num_groups": 32}
"""Stable Diffusion's numbers; its config.json has no shift."""

_V_BIAS = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
_V_DEVIATION = 0.09
"""Deviation of that bias above which a UNet of Stable Diffusion 2 predicts v, as ComfyUI tells them apart."""


@dataclass(frozen=True)
class UNetSources:
    """A diffusers folder of Stable Diffusion (`unet`, `vae`, `scheduler`), an adapter, and what conditions the UNet.

    prompt: a file with `prompt_embeds` (1, L, D), fixed for all pictures. features: in its place, a transformers
    folder of DINOv2, whose tokens of each picture condition the UNet (F2IDiff-SR). compensation: the detail network's
    file; the bundled one without it.
    """

    unet: Path
    vae: Path
    prompt: Path | None
    features: Path | None = None
    adapter: Path | None = None
    adapter_scale: float = 1.0
    compensation: Path | None = None

    @property
    def transformer(self) -> Path:
        """The UNet, by the name that hosts know the restoring network by."""
        return self.unet

    @classmethod
    def find(
        cls,
        folder: str | Path,
        *,
        unet: str | Path | None = None,
        vae: str | Path | None = None,
        prompt: str | Path | None = None,
        features: str | Path | None = None,
        adapters: Iterable[str | Path] = (),
        adapter_scale: float = 1.0,
        conditioned: bool = True,
        compensation: str | Path | None = None,
    ) -> "UNetSources":
        """The parts of a diffusers folder, each named one in its place; not `conditioned`, the UNet is not run and
        wants no prompt. Raises WeightsError and SettingError."""
        root, given = at_home(folder), [at_home(one) for one in adapters]
        if features is not None and not conditioned:
            raise SettingError(f"A VAE is trained without a condition: leave --dino out, got {features}.")
        if len(given) > 1:
            raise WeightsError(f"One adapter goes with a UNet, got {len(given)}: {', '.join(map(str, given))}.")
        prompt_file = at_home(prompt) if prompt else root / "prompt.safetensors"
        if conditioned and features is None and not prompt_file.is_file():
            raise WeightsError(
                f"{prompt_file} is missing: the UNet wants prompt embeddings (--prompt; `op4ksr embed-prompt` of "
                "the same folder makes them), or --dino, a DINOv2 folder, for F2IDiff-SR."
            )
        return cls(
            at_home(unet) if unet else root / "unet",
            at_home(vae) if vae else root / "vae",
            None if features or not conditioned else prompt_file,
            at_home(features) if features else None,
            given[0] if given else None,
            adapter_scale,
            None if compensation is None else at_home(compensation),
        )

    @property
    def f16(self) -> bool:
        """Stable Diffusion's VAEs have no stride of 2."""
        return False

    @cached_property
    def found_adapters(self) -> UNetAdapter | None:
        """The adapter, read once."""
        return find_unet_adapter(self.adapter) if self.adapter else None

    @cached_property
    def prediction(self) -> Prediction:
        """What the UNet predicts. Raises WeightsError where an adapter made for `epsilon` meets the other."""
        found = prediction_of(self.unet)
        if self.adapter and found == "v_prediction":
            raise WeightsError(
                f"{self.unet} predicts v, as stable-diffusion-2-1 (768 px) does; {self.adapter} was made for "
                "stable-diffusion-2-1-base, which predicts noise."
            )
        return found

    def load_condition(self) -> Tensor | None:
        """The fixed prompt (1, L, D); None where the picture itself conditions."""
        if self.prompt is None:
            return None
        return load_tokens(self.prompt)

    def check(self) -> None:
        """Reads the headers of the weights, and the adapter: what cannot be loaded is said before the first picture.
        Raises WeightsError."""
        find_model(self.unet, "UNet")
        find_model(self.vae, "VAE")
        _ = self.found_adapters

    def load_features(self) -> Any:
        """DINOv2 in evaluation mode. Raises WeightsError where the folder is another model's."""
        from transformers import AutoModel

        model: Any = AutoModel.from_pretrained(self.features_folder(), local_files_only=True, use_safetensors=True)
        return model.requires_grad_(False).eval()

    def new_features(self) -> Any:
        """DINOv2 as its config.json describes it, with random weights. Raises WeightsError."""
        from transformers import AutoConfig, AutoModel

        return AutoModel.from_config(AutoConfig.from_pretrained(self.features_folder(), local_files_only=True))

    def features_folder(self) -> Path:
        """DINOv2's folder. Raises WeightsError where it is another model's."""
        assert self.features is not None
        if not (self.features / "config.json").is_file():
            raise WeightsError(f"{self.features} is no transformers folder of DINOv2: it has no config.json.")
        kind = read_json(self.features / "config.json").get("model_type")
        if kind not in ("dinov2", "dinov2_with_registers"):
            raise WeightsError(f"{self.features} holds a model of type {kind!r}; wanted dinov2.")
        return self.features

    def load_transformer(self, dtype: torch.dtype) -> Any:
        """The UNet with its adapter merged. Raises WeightsError, also where the condition has not its width."""
        model = load_unet(self.unet, dtype)
        adapter = self.found_adapters
        if adapter:
            replace_layers(model, adapter.layers["unet"], adapter.origin)
            merge_adapter(model, adapter.lora["unet"], self.adapter_scale)
            model.requires_grad_(False)
        condition = self.load_condition()
        width = condition.shape[-1] if condition is not None else _width(self.features)
        if width != model.config.cross_attention_dim:
            given = self.prompt or self.features
            raise WeightsError(f"{given} gives tokens {width} wide; the UNet reads {model.config.cross_attention_dim}.")
        _ = self.prediction
        return model

    def load_vae(self, dtype: torch.dtype) -> Any:
        """Stable Diffusion's VAE or TVT's VAE-D4, with its adapter merged. Raises WeightsError."""
        vae = load_sd_vae(self.vae, dtype)
        adapter = self.found_adapters
        if adapter and "vae" in adapter.lora:
            replace_layers(vae, adapter.layers["vae"], adapter.origin)
            merge_adapter(vae, adapter.lora["vae"], self.adapter_scale)
        return vae


def load_unet(folder: Path, dtype: torch.dtype) -> Any:
    """A UNet from its own folder, frozen, in evaluation mode. Raises WeightsError."""
    files = find_model(folder, "UNet")
    with torch.device("meta"):
        model = new_unet(folder, files.config)
    load_strictly(model, files.tensors(), str(folder), dtype)
    return model.requires_grad_(False).eval()


def new_unet(place: Path, config: dict | None, **changes: Any) -> Any:
    """The UNet that the config.json of `place` describes, with random weights. Raises WeightsError."""
    from diffusers import UNet2DConditionModel

    if config is None:
        raise WeightsError(f"{place} has no config.json, which says how the UNet is built.")
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return UNet2DConditionModel(**known | changes)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{place}/config.json describes no UNet that diffusers can build ({error}).") from error


def prediction_of(unet: Path) -> Prediction:
    """What a UNet predicts: by its folder's scheduler, else by the norm that tells the two Stable Diffusion 2.1 apart.

    Raises WeightsError where the scheduler says neither.
    """
    scheduler = unet.parent / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        said = read_json(scheduler).get("prediction_type", "epsilon")
        if said not in PREDICTIONS:
            choices = ", ".join(PREDICTIONS)
            raise WeightsError(f"{scheduler} has prediction_type = {said!r}; it must be one of {choices}.")
        return said
    bias = find_weights(unet).tensors().get(_V_BIAS)
    wide = bias is not None and bias.numel() > 1 and float(bias.float().std(correction=0)) > _V_DEVIATION
    return "v_prediction" if wide else "epsilon"


def is_unet_folder(folder: str | Path | None) -> bool:
    """Whether a diffusers folder is Stable Diffusion's: it has `unet` in place of `transformer`."""
    return folder is not None and (at_home(folder) / "unet").is_dir()


def _width(features: Path | None) -> int:
    assert features is not None
    return int(json.loads((features / "config.json").read_text()).get("hidden_size", 0))


def load_sd_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """An autoencoder of Stable Diffusion's kind from a diffusers folder or file; VAE-D4 has no middle block."""
    vae = new_sd_vae(path)
    load_strictly(vae, find_weights(path).tensors(), str(path), dtype)
    return vae.requires_grad_(False).eval()


def new_sd_vae(path: str | Path) -> Any:
    """The same autoencoder on the meta device: its shapes come from the files' headers. Raises WeightsError."""
    from diffusers import AutoencoderKL

    files = find_weights(path)
    shapes = files.shapes()
    if files.config and strided_by(files.config):
        raise WeightsError(f"{path} compresses 16x by its config.json; Stable Diffusion's VAE compresses 8x, TVT's 4x.")
    numbers = SD_VAE | {k: v for k, v in (files.config or {}).items() if k in SD_VAE and v is not None}
    with torch.device("meta"):
        vae: Any = AutoencoderKL(**vae_config(shapes, numbers, path))
    if not any(".mid_block." in key for key in shapes):
        vae.encoder.mid_block = vae.decoder.mid_block = NoMiddle()
    return vae
