"""A FLUX VAE at 16x, and how much memory a VAE takes."""

import copy
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..op4ksr_core.errors import SettingError
from ..op4ksr_core.model.head_choice import in_register, register_text
from ..op4ksr_core.model.vae import sub_pixel_head
from . import versions
from .checks import check_vae
from .memory import tell, vae_bytes
from .vae_passes import decode_whole, encode_whole


def to_f16(vae: VAE, head: str) -> VAE:
    """A copy of a FLUX-shaped VAE at 16x: strided conv_in, sub-pixel head, ratios and memory estimates to match.

    Patches (adapters) go along. The head auto is the one that puts a test chart where it belongs; it is said which.
    """
    if head != "auto":
        return _to_f16(vae, head)
    made = _to_f16(vae, "centered")
    head, shift = in_register(lambda chart: round_trip(made, chart))
    tell(register_text(head, shift))
    return _to_f16(vae, head) if head == "partitioned" else made


def round_trip(vae: VAE, picture: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], encoded and decoded, without a bar."""

    def unseen(*_: object) -> None: ...

    return decode_whole(vae, encode_whole(vae, picture, unseen), unseen).cpu()


def _to_f16(vae: VAE, head: str) -> VAE:
    check_vae(vae)
    if vae.downscale_ratio != 8:
        raise SettingError(f"This VAE compresses {vae.downscale_ratio} times already; F16 is made from an F8 VAE.")
    stage = versions.own_copy(vae.patcher)
    _make_f16(stage, head)
    out = copy.copy(vae)
    out.first_stage_model = stage
    out.patcher = versions.new_patcher(stage, vae.patcher)
    out.patcher.patches = {key: list(patches) for key, patches in vae.patcher.patches.items()}
    loader = versions.loader_of(vae.patcher)
    if loader is not None:
        versions.remember_loader(out.patcher, _load_f16, loader, head)
    out.patcher.patches_uuid = vae.patcher.patches_uuid
    out.downscale_ratio = out.upscale_ratio = 2 * vae.downscale_ratio
    tell_memory(out, out.downscale_ratio)
    return out


def _make_f16(stage: Any, head: str) -> None:
    stage.encoder.conv_in.stride = (2, 2)
    stage.decoder.conv_out = sub_pixel_head(stage.decoder.conv_out, head)


def _load_f16(loader: tuple, head: str, **options: bool) -> ModelPatcher:
    """The F8 VAE's weights loaded anew, and made F16."""
    patcher = versions.load_again(loader, **options)
    _make_f16(patcher.model, head)
    return patcher


def tell_memory(vae: VAE, latent_factor: int) -> None:
    """ComfyUI's estimates count an attention in slices and twice the copies; ours are what one whole pass holds."""
    stage = vae.first_stage_model
    vae.memory_used_encode = lambda s, dtype: s[0] * vae_bytes(stage, s[2] * s[3], dtype, latent_factor, False)
    vae.memory_used_decode = lambda s, dtype: (
        s[0] * vae_bytes(stage, s[2] * s[3] * latent_factor**2, dtype, latent_factor, True)
    )
