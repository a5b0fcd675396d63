"""Whether a MODEL, VAE, LATENT or CONDITIONING is what a node can work with."""

import comfy.model_sampling
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.weights.usual_settings import Facts


def is_unet(model: ModelPatcher) -> bool:
    """Whether the MODEL is a diffusion UNet that predicts noise or v, which takes its step at a timestep of 1000."""
    sampling, config = model.get_model_object("model_sampling"), model.model.model_config.unet_config
    return isinstance(sampling, comfy.model_sampling.EPS) and hasattr(sampling, "sigmas") and "channel_mult" in config


def check_flow(model: ModelPatcher) -> None:
    """Raises SettingError unless the MODEL predicts a flow's velocity."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST):
        raise SettingError(
            f"The mid-timestep step needs a flow model (FLUX); this MODEL is {type(model.model).__name__} "
            f"with {type(sampling).__name__}."
        )


def check_vae(vae: VAE, latent_factor: int | None = None) -> None:
    """Raises SettingError unless this is an autoencoder of FLUX's kind, compressing `latent_factor` times if given."""
    vae.throw_exception_if_invalid()
    stage = vae.first_stage_model
    if not (hasattr(stage, "encoder") and hasattr(stage.encoder, "down") and isinstance(vae.downscale_ratio, int)):
        raise SettingError(f"This node needs a FLUX VAE; this one is {type(stage).__name__}.")
    if latent_factor is not None and vae.downscale_ratio != latent_factor:
        remedy = {
            16: "For UltraFlux and OP4KSR put the F16 VAE node before it; for OMGSR choose its preset, "
            "or vae_factor 8.",
            8: "Choose another preset than omgsr, osediff and f2idiff, or vae_factor 16.",
        }.get(
            latent_factor,
            "TVT wants its own VAE-D4, from Load diffusers folder; or choose another preset or vae_factor.",
        )
        raise SettingError(f"This VAE compresses {vae.downscale_ratio} times; {latent_factor} is wanted. {remedy}")


def check_latent(model: ModelPatcher, samples: Tensor) -> None:
    """Raises ImageError where the latent has not the MODEL's channels."""
    wanted = model.model.latent_format.latent_channels
    if samples.ndim != 4 or samples.shape[1] != wanted or 0 in samples.shape:
        raise ImageError(
            f"The LATENT is {list(samples.shape)}; this MODEL wants (batch, {wanted}, height, width), none of them 0. "
            "Encode with the VAE that belongs to the MODEL."
        )


def check_conditioning(model: ModelPatcher, conditioning: list) -> None:
    """Raises SettingError where a text embedding has not the width that the MODEL reads."""
    config = model.model.model_config.unet_config
    for sequence, extra in conditioning:
        pooled = extra.get("pooled_output")
        found = (sequence.shape[-1], None if pooled is None else pooled.shape[-1])
        width = config.get("context_in_dim") or config.get("context_dim") or found[0]
        wanted = (width, config.get("vec_in_dim", found[1]))
        if found != wanted:
            raise SettingError(
                f"The CONDITIONING has widths {found[0]} and {found[1]} (sequence, pooled); this MODEL reads "
                f"{wanted[0]} and {wanted[1]}. Use the text encoders, or the fixed prompt, that belong to the MODEL."
            )


TRAINED_FOR = "op4ksr_trained_for"
"""The MODEL's attachment that says what its adapter was trained for."""


def facts_of(model: ModelPatcher | None, vae: VAE | None, conditioning: list | None) -> Facts:
    """What the connected models say about the settings that go with them."""
    if model is None:
        return Facts(bundled=True)
    config = model.model.model_config.unet_config
    said = model.attachments.get(TRAINED_FOR)
    return Facts(
        unet_levels=len(config["channel_mult"]) if is_unet(model) else None,
        latent_factor=Facts.latent_factor if vae is None else vae.downscale_ratio,
        adapted=said is not None or bool(model.patches),
        trained_for=said,
        prompt_tokens=conditioning[0][0].shape[1] if conditioning else None,
    )
