"""What the files of a model say about the settings that go with it."""

from ..paths import EMBEDDED
from .configs import header_shapes, vae_layout
from .files import find_weights
from .sources import Sources
from .trained_for import read_trained_for
from .unet_sources import UNetSources
from .usual_settings import Facts

_DIFFUSERS_LEVELS = (320, 640, 1280, 1280)
"""Of a UNet whose config.json does not list them."""


def facts_of(sources: Sources | UNetSources) -> Facts:
    """What the files of a model say, by their headers. Raises WeightsError and SettingError as loading them does."""
    factor = vae_layout(sources.vae, sources.f16)[1]
    tokens = None if sources.prompt is None else header_shapes(sources.prompt)["prompt_embeds"][1]
    if isinstance(sources, UNetSources):
        said = read_trained_for(sources.adapter) if sources.adapter else None
        config = find_weights(sources.unet).config or {}
        levels = len(config.get("block_out_channels", _DIFFUSERS_LEVELS))
        features = sources.features is not None
        return Facts(False, levels, factor, features, sources.adapter is not None, said, tokens)
    places = sources.adapters or (sources.transformer.parent,)
    found = [one for one in map(read_trained_for, places) if one]
    bundled = sources.transformer == EMBEDDED / "transformer"
    adapted = bool(sources.adapters or found)
    return Facts(bundled, None, factor, False, adapted, found[-1] if found else None, tokens)
