"""Softmax attention with one wide head (512 in FLUX's VAE), whose scores never exist all at once.

PyTorch's fused kernels stop at a head of 256: for a wider one on CUDA, `scaled_dot_product_attention` takes a slow
kernel or the plain formula. Three ways, equal to rounding: PyTorch's own call, two matrix products with the softmax
between them in float32, and FlexAttention. Which one a device takes is `WAY`; `benchmarks/gpu/variants.py` compares
them on a card.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SCORES = 2**26
"""Most attention scores (queries times keys) that exist at one time."""

FUSED_HEAD = 256
"""The widest head that PyTorch's flash and cuDNN kernels take."""


def by_call(q: Tensor, k: Tensor, v: Tensor, max_scores: int = MAX_SCORES) -> Tensor:
    """PyTorch's own attention over (B, heads, N, C), queries in chunks of at most `max_scores` scores."""
    parts = torch.split(q, _rows(q, k, max_scores), dim=2)
    made = [F.scaled_dot_product_attention(part, k, v) for part in parts]
    return made[0] if len(made) == 1 else torch.cat(made, dim=2)


def by_products(q: Tensor, k: Tensor, v: Tensor, max_scores: int = MAX_SCORES) -> Tensor:
    """Two matrix products per chunk of queries; the softmax of each row is in float32, whatever the dtype."""
    keys, scale = k.transpose(2, 3), q.shape[3] ** -0.5
    made = []
    for part in torch.split(q, _rows(q, k, max_scores), dim=2):
        weights = torch.softmax((part * scale) @ keys, dim=-1, dtype=torch.float32)
        made.append(weights.to(v.dtype) @ v)
    return torch.cat(made, dim=2)


def by_flex(q: Tensor, k: Tensor, v: Tensor, max_scores: int = MAX_SCORES) -> Tensor:
    """FlexAttention, compiled at the first call; on CUDA alone. It holds no scores, so `max_scores` says nothing."""
    made: Tensor = _compiled_flex()(q, k, v, kernel_options=_SMALL_BLOCKS)
    return made


_SMALL_BLOCKS = {"BLOCK_M": 64, "BLOCK_N": 32}
"""A head of 512 leaves no room in a card's shared memory for the default blocks."""


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "call": by_call,
    "products": by_products,
    "flex": by_flex,
}

WAY = {"cpu": "call", "cuda": "products"}
"""By device: on a CPU what was fastest (docs/lab/speed.md); on CUDA what should be, and was not measured yet."""


def wide_attention(q: Tensor, k: Tensor, v: Tensor, max_scores: int = MAX_SCORES) -> Tensor:
    """Attention over (B, heads, N, C) by the device's way; heads that fused kernels take go through PyTorch's call."""
    return WAYS[way_of(q.device, q.shape[3])](q, k, v, max_scores)


def way_of(device: torch.device, channels: int) -> str:
    """The name of the way that a head of so many channels takes on a device."""
    return WAY.get(device.type, "call") if channels > FUSED_HEAD else "call"


def _rows(q: Tensor, k: Tensor, max_scores: int) -> int:
    """Queries in a chunk."""
    return max(1, max_scores // (q.shape[0] * q.shape[1] * k.shape[2]))
