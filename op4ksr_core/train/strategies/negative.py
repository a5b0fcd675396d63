"""The prompt that VSD's prior is guided away from."""

from pathlib import Path

from ...errors import WeightsError
from ...files import at_home
from ..settings import TrainSettings


def negative_file(settings: TrainSettings) -> Path:
    """VSD's unconditional prompt. Raises WeightsError where there is no such file."""
    path = at_home(settings.negative) if settings.negative else None
    if path is None or not path.is_file():
        raise WeightsError(
            "VSD wants a prompt file for its unconditional prior (--negative FILE; `op4ksr embed-prompt --negative` "
            f"makes it), got {path or 'none'}. Or set the weight of vsd to 0."
        )
    return path
