"""What an adapter was trained for: its file carries it, so that inference takes the same settings by itself."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ..declared import as_values, check, from_values, setting
from ..errors import SettingError, WeightsError
from ..files import at_home
from ..settings import PRESET_FACTORS, PRESETS, RopeSettings, UpscaleSettings
from .files import find_weights
from .unet_adapters import PICKLED, from_pickle

METADATA = "op4ksr_trained_for"
"""The name in a safetensors file's metadata; the value is JSON."""

FOLDER_FILE = "trained_for.json"
"""The same JSON in the folder of a model that has adapters merged in."""

_IN_FOLDERS = ("adapters.safetensors", "flux_adapter/adapter_model.safetensors")


@dataclass(frozen=True)
class TrainedFor:
    """The settings of a training that inference must share. None: not said. Raises SettingError."""

    preset: str = setting("op4ksr", "The preset of inference.", choices=tuple(PRESETS))
    latent_factor: int = setting(16, "Picture px per latent px of the VAE.", low=4, high=16)
    sigma: float | None = setting(None, "The mid-timestep of a flow model.", above=0, high=1)
    rope: RopeSettings | None = setting(None, "Positions of a flow transformer.")
    timestep: int | None = setting(None, "The timestep of a Stable Diffusion UNet.", low=0, high=999)
    prompt_tokens: int | None = setting(None, "Tokens of the fixed prompt.", low=1)

    def __post_init__(self) -> None:
        check(self)

    def applied_to(self, settings: UpscaleSettings) -> UpscaleSettings:
        """The settings with what the training says."""
        return replace(
            settings,
            sigma=settings.sigma if self.sigma is None else self.sigma,
            rope=settings.rope if self.rope is None else self.rope,
            timestep=settings.timestep if self.timestep is None else self.timestep,
        )

    def as_metadata(self) -> dict[str, str]:
        """For a safetensors file."""
        return {METADATA: self.as_json()}

    def as_json(self) -> str:
        """What `parse` reads."""
        return json.dumps(as_values(self))

    @classmethod
    def parse(cls, text: str, origin: str | Path) -> "TrainedFor":
        """The inverse of `as_json`. Raises WeightsError, which names the file and the value."""
        try:
            return from_values(cls, json.loads(text))
        except (ValueError, SettingError) as error:
            raise WeightsError(f"{origin}: what it says of its training cannot be used. {error}") from error


def read_trained_for(path: str | Path) -> TrainedFor | None:
    """What an adapter, or a folder of adapters or of a merged model, says of its training; None where it says nothing.

    A file of OSEDiff or TVT has a family, which is the preset. Raises WeightsError.
    """
    path = at_home(path)
    if not path.is_dir():
        return _of_file(path)
    merged = path / FOLDER_FILE
    if merged.is_file():
        return TrainedFor.parse(merged.read_text(encoding="utf-8"), merged)
    found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    return _of_file(found[0]) if found else None


def _of_file(path: Path) -> TrainedFor | None:
    if path.suffix == PICKLED:
        return _of_family(from_pickle(path).family)
    metadata = find_weights(path).metadata()
    if METADATA in metadata:
        return TrainedFor.parse(metadata[METADATA], path)
    return _of_family(metadata.get("family", ""))


def _of_family(family: str) -> TrainedFor | None:
    return TrainedFor(family, PRESET_FACTORS[family]) if family in PRESET_FACTORS else None
