"""OP4KSR: one-step, patch-free 4K super-resolution (method: arXiv 2605.13457).

>>> from op4ksr_core import Upscaler
>>> large = Upscaler.from_embedded()(picture)      # (B, 3, H, W) in [0, 1] -> four times as large
"""

from typing import TYPE_CHECKING, Any

from .errors import (
    Cancelled,
    ImageError,
    MemoryPlanError,
    Op4ksrError,
    OutputError,
    PrecisionError,
    SettingError,
    TrainingError,
    WeightsError,
)
from .geometry import Box, LongSide, Megapixels, Scale, ShortSide, Size
from .settings import PRESETS, Execution, RopeSettings, UpscaleSettings

if TYPE_CHECKING:
    from .lattice.inspector import inspect
    from .lattice.suppress import suppress
    from .pipeline.upscaler import Upscaler

__version__ = "0.3.0"

__all__ = [
    "PRESETS",
    "Box",
    "Cancelled",
    "Execution",
    "ImageError",
    "LongSide",
    "Megapixels",
    "MemoryPlanError",
    "Op4ksrError",
    "OutputError",
    "PrecisionError",
    "RopeSettings",
    "Scale",
    "SettingError",
    "ShortSide",
    "Size",
    "TrainingError",
    "UpscaleSettings",
    "Upscaler",
    "WeightsError",
    "inspect",
    "suppress",
]


def __getattr__(name: str) -> Any:
    """Names whose modules import torch: fetched when they are asked for."""
    if name == "Upscaler":
        from .pipeline.upscaler import Upscaler

        return Upscaler
    if name == "inspect":
        from .lattice.inspector import inspect

        return inspect
    if name == "suppress":
        from .lattice.suppress import suppress

        return suppress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
