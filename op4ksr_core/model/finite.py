"""NaN and infinity, and the layers of a model that come near to making them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import PrecisionError


def check_finite(x: Tensor, phase: str, dtype: torch.dtype, remedy: str) -> Tensor:
    """Returns `x`, what `phase` gave in `dtype`. Raises PrecisionError, with the remedy, on NaN or infinity."""
    if math.isfinite(float(x.sum(dtype=torch.float32))):
        return x
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        raise PrecisionError(f"{phase} gave NaN or infinity in {name}, whose largest number is 65504. {remedy}")
    raise PrecisionError(f"{phase} gave NaN or infinity in {name}: the weights or adapters are damaged or do not fit.")


@contextmanager
def largest_outputs(module: nn.Module) -> Iterator[dict[str, float]]:
    """Fills the dict, while the module runs, with the largest magnitude that each of its layers gave.

    float16 ends at 65504: a layer that comes near to it in float32 is not safe there. Layers without parts of their
    own are watched, by their names.
    """
    found: dict[str, float] = {}

    def watcher(name: str):  # type: ignore[no-untyped-def]
        def seen(_module: nn.Module, _given: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[name] = max(found.get(name, 0.0), float(output.detach().abs().amax()))

        return seen

    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(watcher(name)) for name, layer in leaves]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
