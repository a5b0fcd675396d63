"""A layer's weights, ready to compute with. A host may keep them on another device, or in another form, until then."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from torch import Tensor

Weights = tuple[Tensor, Tensor | None]
"""Weight and bias on the input's device, in its dtype."""

Caster = Callable[[Any, Tensor], AbstractContextManager[Weights]]
"""(layer, an input or a tensor of its device and dtype) -> the layer's weights, valid inside."""


def _as_they_are(layer: Any, _x: Tensor) -> AbstractContextManager[Weights]:
    return nullcontext((layer.weight, layer.bias))


_caster: ContextVar[Caster] = ContextVar("caster", default=_as_they_are)


def weights_of(layer: Any, x: Tensor) -> AbstractContextManager[Weights]:
    """(weight, bias) of a convolution or norm for computing with `x`; they may be gone when the block ends."""
    return _caster.get()(layer, x)


@contextmanager
def casting(caster: Caster) -> Iterator[None]:
    """Inside, `weights_of` asks `caster`."""
    token = _caster.set(caster)
    try:
        yield
    finally:
        _caster.reset(token)
