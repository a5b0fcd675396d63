"""Which preset goes with the models that are connected."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE

from ..op4ksr_core.settings import PRESET_FACTORS
from .checks import is_unet

_KEY = "op4ksr_preset"


def marked(model: ModelPatcher, preset: str) -> ModelPatcher:
    """A clone of the MODEL that says which preset it wants; its own clones say so too."""
    clone = model.clone()
    clone.model_options[_KEY] = preset
    return clone


def mark_of(model: ModelPatcher) -> str:
    """The preset that the MODEL's loader marked it with; empty where none did."""
    return model.model_options.get(_KEY, "")


def usual_preset(model: ModelPatcher | None, vae: VAE | None) -> tuple[str, str]:
    """The preset that auto takes, and why."""
    if model is None:
        return "embedded", "no MODEL is connected"
    if mark_of(model):
        return mark_of(model), "what loaded the MODEL says so"
    if not is_unet(model):
        return "op4ksr", "the MODEL is a FLUX one"
    if vae is not None and vae.downscale_ratio == PRESET_FACTORS["tvt"]:
        return "tvt", "the MODEL is a UNet, the VAE compresses 4 times"
    return "osediff", "the MODEL is a UNet"
