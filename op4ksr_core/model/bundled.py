"""The small networks that come with the package, as float32 weights."""

from pathlib import Path

from torch import Tensor

from ..errors import WeightsError


def bundled_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of the package, float32. Raises WeightsError where it is missing or damaged."""
    from safetensors.torch import load_file

    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except Exception as error:  # a damaged file can fail in any way
        raise WeightsError(
            f"{path}, which comes with OP4KSR, cannot be read ({error}). Install OP4KSR again."
        ) from error
