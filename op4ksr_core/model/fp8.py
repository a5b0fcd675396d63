"""Linear layers in 8-bit floating point (e4m3): half of bfloat16's memory, and twice the products a second on cards
that have them (compute capability 8.9 and up).

Weights have a scale per output row, activations one per token, found as they come (Micikevicius et al., FP8 formats
for deep learning, arXiv 2209.05433). Other cards keep activations as they are and only store weights in 8 bits.

torchao does this too, but would be a dependency for the command line's --fp8 alone: in a graph ComfyUI's own fp8
loaders do it.
"""

import math

import torch
from torch import Tensor, nn

from ..errors import SettingError
from .interfaces import AnyTransformer

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""e4m3's largest number."""

_MULTIPLE = 16
"""The scaled product wants both sides of a weight to be multiples of this."""


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., C) -> (e4m3 of the same shape, float32 scales (..., 1)): x is about their product, to 1 in 16."""
    scale = x.detach().abs().amax(-1, keepdim=True).float().clamp_min(1e-12) / LARGEST
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


class Fp8Linear(nn.Module):
    """`nn.Linear` for inference with its weight in e4m3. (..., C) -> (..., D), in the dtype that comes in.

    `products`: whether activations are quantised too and multiplied in 8 bits; without, weights are widened each time.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, products: bool):
        super().__init__()
        self.in_features, self.out_features, self.products = linear.in_features, linear.out_features, products
        weight, scale = quantised(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if self.products:
            tokens, scale = quantised(flat)
            out = torch._scaled_mm(tokens, self.weight.T, scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype)
        else:
            out = flat @ (self.weight.to(x.dtype) * self.scale.to(x.dtype)).T
        out = out if self.bias is None else out + self.bias.to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)


def has_fp8_products(device: torch.device) -> bool:
    """Whether the device multiplies e4m3 matrices natively."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def to_fp8(transformer: AnyTransformer, products: bool) -> AnyTransformer:
    """Swaps the linear layers of a FLUX transformer's blocks for `Fp8Linear`, in place, and returns it.

    What lies outside of the blocks stays as it is: it is small, and the first and the last layer say most. Raises
    SettingError where no layer fits.
    """
    swapped = 0
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear) and _fits(tuple(layer.weight.shape)):
                owner, _, key = name.rpartition(".")
                setattr(block.get_submodule(owner), key, Fp8Linear(layer, products))
                swapped += 1
    if not swapped:
        raise SettingError(f"This transformer has no linear layers whose sides are multiples of {_MULTIPLE}.")
    transformer.requires_grad_(False)
    return transformer


def bytes_of(name: str, shape: tuple[int, ...], itemsize: int, fp8: bool) -> int:
    """What one tensor of a transformer weighs, after `to_fp8` its scales included."""
    count = math.prod(shape)
    swapped = fp8 and "blocks." in name and _fits(shape)
    return count + 4 * shape[0] if swapped else itemsize * count


def _fits(shape: tuple[int, ...]) -> bool:
    """Whether a weight of this shape can stand in a scaled product."""
    return len(shape) == 2 and not any(side % _MULTIPLE for side in shape)
