"""Which settings go with which models, for `auto` in a graph and for a command line without --preset."""

from dataclasses import dataclass

from ..settings import PRESET_FACTORS, UpscaleSettings, find_preset
from .trained_for import TrainedFor

_CE_UNET_LEVELS = 5
"""Levels of TVT's UNet; Stable Diffusion's has four."""


@dataclass(frozen=True)
class Facts:
    """What is known of the models that are to be run."""

    bundled: bool = False
    """The transformer is the bundled one."""
    unet_levels: int | None = None
    """Levels of a Stable Diffusion UNet; None for a flow transformer."""
    latent_factor: int = 16
    """Picture px per latent px of the VAE."""
    features: bool = False
    """The condition is the picture itself, not a prompt."""
    adapted: bool = False
    """There is an adapter, or the model has one merged in."""
    trained_for: TrainedFor | None = None
    """What the adapter says of its training."""
    prompt_tokens: int | None = None
    """Length of the prompt that is connected."""


@dataclass(frozen=True)
class Choice:
    """The settings that go with some models."""

    preset: str
    settings: UpscaleSettings
    reason: str
    """Why, in a sentence."""


def choose(facts: Facts) -> Choice:
    """The preset of the models, with what their adapter says of its training."""
    preset, why = _preset(facts)
    settings = find_preset(preset)
    if facts.trained_for:
        settings = facts.trained_for.applied_to(settings)
    return Choice(preset, settings, f"Preset {preset}: {why}.")


def _preset(facts: Facts) -> tuple[str, str]:
    said = facts.trained_for
    if facts.bundled:
        return "embedded", "the model is the bundled one" + (", with its adapter's settings" if said else "")
    if said:
        return said.preset, "the weights say that they were trained for it"
    if facts.unet_levels is None:
        return _flow_preset(facts)
    if facts.features:
        return "f2idiff", "the UNet reads the picture's features"
    if facts.latent_factor == PRESET_FACTORS["tvt"]:
        return "tvt", "the VAE compresses 4x"
    if facts.unet_levels == _CE_UNET_LEVELS:
        return "tvt", "the UNet has five levels"
    return "osediff", "the model is a Stable Diffusion UNet with a VAE that compresses 8x"


def _flow_preset(facts: Facts) -> tuple[str, str]:
    if facts.latent_factor == PRESET_FACTORS["omgsr"]:
        return "omgsr", "the VAE of this FLUX model compresses 8x"
    if facts.adapted:
        return "op4ksr", "the VAE compresses 16x, and the adapter does not say what it was trained for"
    return "ultraflux", "the VAE compresses 16x, and there is no adapter"


def contradictions(facts: Facts, settings: UpscaleSettings) -> list[str]:
    """Sentences about each setting in use that is not what the adapter was trained for."""
    said = facts.trained_for
    if said is None:
        return []
    rope, trained_rope = settings.rope, said.rope
    compared = (
        ("sigma", settings.sigma, said.sigma),
        ("theta", rope and rope.theta, trained_rope and trained_rope.theta),
        ("scheme", rope and rope.scheme, trained_rope and trained_rope.scheme),
        ("timestep", settings.timestep, said.timestep),
        ("the VAE's factor", facts.latent_factor, said.latent_factor),
        ("the prompt's length", facts.prompt_tokens, said.prompt_tokens),
    )
    return [
        f"{name} is {used}, but the adapter was trained with {trained}."
        for name, used, trained in compared
        if None not in (used, trained) and used != trained
    ]
