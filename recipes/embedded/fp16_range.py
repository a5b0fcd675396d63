"""Numbers that fit into 16 bits: the VAE's residual streams scaled down, each where a linear layer makes it larger.

Every branch and the last layer look at a stream through a group norm, which takes any scale away, so the pictures stay
(to its epsilon). Trained as they are, these streams reach 3e7, which float16 cannot hold.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 64.0
"""About what a stream's largest number is to be."""


def fit_fp16(vae: Any, picture: Tensor) -> None:
    """Scales the weights in place by powers of two. picture: (B, 3, H, W) in [0, 1], to measure with."""
    encoder, decoder = vae.encoder, vae.decoder
    down = [(block.resnets, block.downsamplers) for block in encoder.down_blocks]
    up = [(block.resnets, block.upsamplers) for block in decoder.up_blocks]
    z = encoder(picture * 2 - 1).chunk(2, 1)[0]
    for half, source, blocks in (
        (encoder, picture * 2 - 1, [*down, (encoder.mid_block.resnets, None)]),
        (decoder, z, [(decoder.mid_block.resnets, None), *up]),
    ):
        _calm_half(half, source, blocks)


def _calm_half(half: Any, source: Tensor, blocks: list[tuple[Any, Any]]) -> None:
    largest: dict[nn.Module, float] = {}

    def note(module: nn.Module, _: Any, out: Tensor) -> None:
        largest[module] = float(out.abs().max())

    streams = [half.conv_in]
    for resnets, samplers in blocks:
        streams += [*resnets, *(sampler.conv for sampler in samplers or [])]
    hooks = [module.register_forward_hook(note) for module in streams]
    half(source)
    for hook in hooks:
        hook.remove()
    factor = _power(largest[half.conv_in])
    _scale(half.conv_in, factor, factor)
    for resnets, samplers in blocks:
        for resnet in resnets:
            if resnet.conv_shortcut is not None:
                before, factor = factor, _power(largest[resnet])
                _scale(resnet.conv_shortcut, factor / before, factor)
            _scale(resnet.conv2, factor, factor)
        for sampler in samplers or []:
            before, factor = factor, _power(largest[sampler.conv])
            _scale(sampler.conv, factor / before, factor)


def _power(largest: float) -> float:
    return 2.0 ** round(math.log2(LARGEST / max(largest, 1e-12)))


def _scale(conv: nn.Conv2d, weight: float, bias: float) -> None:
    with torch.no_grad():
        conv.weight *= weight
        conv.bias *= bias
