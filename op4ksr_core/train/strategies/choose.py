"""Which strategy a model and a stage get."""

from ...errors import SettingError
from ...weights.sources import Sources
from ...weights.unet_sources import UNetSources
from ..settings import TrainSettings
from .compensation import CompensationStrategy
from .flow import FlowStrategy
from .prior import PriorStrategy
from .protocol import TrainingStrategy
from .unet import UNetStrategy
from .vae import VaeStrategy

UNetFamily = UNetStrategy | PriorStrategy | VaeStrategy
"""What is trained of a Stable Diffusion folder by its stages."""


def load_strategy(sources: Sources | UNetSources, settings: TrainSettings, sharded: bool = False) -> TrainingStrategy:
    """The family's strategy with its weights. Raises WeightsError, and SettingError where the settings do not fit."""
    strategy = _load(sources, settings)
    for name, side in (("crop", settings.crop), ("least_crop", settings.least_crop)):
        if side % strategy.multiple:
            raise SettingError(f"The {name} is a multiple of {strategy.multiple} px for this model, got {side}.")
    if settings.captions and not strategy.takes_captions:
        raise SettingError("captions are for Stable Diffusion UNets; a FLUX transformer has one fixed prompt.")
    if sharded:
        check_shardable(strategy)
    return strategy


def check_shardable(strategy: TrainingStrategy) -> None:
    """Raises SettingError where nothing of the model can be shared over processes."""
    if strategy.shardable is None:
        raise SettingError("--shard shares out the FLUX transformer that is trained; nothing else is.")


def without_weights(sources: UNetSources, settings: TrainSettings) -> UNetFamily:
    """The strategy of a Stable Diffusion folder on the meta device. Raises WeightsError."""
    return _for_unets(settings).without_weights(sources, settings)


def _load(sources: Sources | UNetSources, settings: TrainSettings) -> TrainingStrategy:
    if settings.stage == "compensation":
        return CompensationStrategy.load(sources, settings)
    if isinstance(sources, Sources):
        if settings.stage != "adapters":
            raise SettingError(
                f"The stage {settings.stage} is Stable Diffusion's: name its diffusers folder (--model)."
            )
        return FlowStrategy.load(sources, settings)
    return _for_unets(settings).load(sources, settings)


def _for_unets(settings: TrainSettings) -> type[UNetStrategy] | type[PriorStrategy] | type[VaeStrategy]:
    if settings.stage == "adapters":
        return UNetStrategy
    return PriorStrategy if settings.stage == "prior" else VaeStrategy
