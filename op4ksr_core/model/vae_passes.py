"""The halves of a FLUX-shaped autoencoder in strips of rows: whole pictures, less memory, the same result.

Nothing is tiled. A convolution reads the rows around its strip from its neighbours, and a group norm takes the
statistics of the whole map, gathered strip by strip before it is applied. So a residual block is three passes over its
map: statistics; first convolution, and the statistics of what it gives; second convolution. Normalised copies exist a
strip at a time, and results are written over maps that are not wanted any more: a block holds its input and what its
first convolution gives. `frugal` does not hold that either, but makes it again, and enlarged maps too, whenever they
are read: about one map exists at a time, for twice the convolutions.

Works on diffusers' AutoencoderKL and on the original layout, which ComfyUI uses, after `vae.make_f16` or without it.
Inference only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..progress import Progress, watch
from ..settings import PASSES
from .group_norm import Affine, Moments, silu_of
from .layer_weights import weights_of
from .rowwise import Map, conv_rows, kept, overwritten
from .vae import NoMiddle, PhaseUpsample, SubPixelHead

WHOLE, STRIPS, FRUGAL = "whole", "strips", "frugal"
"""How a half can be run: by its own forward, or as above, each in less memory than the one before."""


def passes_of(device: torch.device) -> tuple[str, ...]:
    """The passes worth taking on a device, the fastest first: on a CPU strips are as fast as one pass."""
    return PASSES[1:] if device.type == "cpu" else PASSES


Step = tuple[str, Any]


def silu_by(affine: Affine) -> Callable[[Tensor], Tensor]:
    """A group norm and its activation, on a copy."""
    return lambda x: silu_of(x, affine)


def norm_of(source: Map, norm: nn.GroupNorm) -> Affine:
    """A group norm's factor and summand from the whole of a map, which is read for it."""
    moments = Moments()
    for first, last in source.strips():
        moments.add(source.read(first, last))
    return moments.affine(norm)


def first_conv(conv: nn.Conv2d, source: Map) -> Map:
    """The encoder's or decoder's first convolution, of stride 1 or 2."""
    stride = conv.stride[0]

    def layer(first: int, last: int) -> Tensor:
        return conv_rows(conv, source.window(first * stride - 1, (last - 1) * stride + 2))

    # Channels grow here: by its result a strip is as high as one of that.
    rows = source.strip * conv.in_channels // conv.out_channels
    return kept(layer, (source.height - 1) // stride + 1, rows)


def down(conv: nn.Conv2d, source: Map) -> Map:
    """Stride 2, with zeros below and to the right."""

    def layer(first: int, last: int) -> Tensor:
        window = F.pad(source.window(2 * first, 2 * last + 1), (0, 1))
        with weights_of(conv, window) as (weight, bias):
            return F.conv2d(window, weight, bias, stride=2)

    return kept(layer, source.height // 2, source.strip // 2)


def up(conv: nn.Conv2d, source: Map, keep: bool) -> Map:
    """Nearest x2 and a 3x3 convolution: kept, or computed again whenever it is read."""
    phases = PhaseUpsample(conv)

    def layer(first: int, last: int) -> Tensor:
        top, bottom = first // 2, (last + 1) // 2
        rows = phases.rows(source.window(top - 1, bottom + 1))
        return rows[:, :, first - 2 * top : last - 2 * top]

    made = Map(2 * source.height, max(2, source.strip // 2), layer)
    return kept(layer, made.height, made.strip) if keep else made


def residual(block: Any, source: Map, keep: bool) -> Map:
    """A residual block, over its input where that is kept and as wide, else over the first convolution's result."""
    first_norm = norm_of(source, block.norm1)

    def conv1(first: int, last: int) -> Tensor:
        return conv_rows(block.conv1, source.window(first - 1, last + 1, silu_by(first_norm)))

    if keep:
        moments = Moments()
        hidden = kept(conv1, source.height, source.strip, moments.add)
        second_norm = moments.affine(block.norm2)
    else:
        hidden = Map(source.height, source.strip, conv1)
        second_norm = norm_of(hidden, block.norm2)
    shortcut = getattr(block, "conv_shortcut", None) or getattr(block, "nin_shortcut", None)

    def layer(first: int, last: int) -> Tensor:
        rows = conv_rows(block.conv2, hidden.window(first - 1, last + 1, silu_by(second_norm)))
        beside = source.read(first, last)
        return rows.add_(beside if shortcut is None else shortcut(beside))

    if source.kept is not None and block.conv1.in_channels == block.conv1.out_channels:
        return overwritten(layer, source)
    return overwritten(layer, hidden) if keep else kept(layer, source.height, source.strip)


def last_conv(norm: nn.GroupNorm, conv: nn.Module, source: Map) -> Map:
    """Norm, activation, and the last convolution or the F16 head."""
    affine = norm_of(source, norm)
    if not isinstance(conv, SubPixelHead):
        return kept(
            lambda first, last: conv_rows(conv, source.window(first - 1, last + 1, silu_by(affine))),  # type: ignore[arg-type]
            source.height,
            source.strip,
        )

    def layer(first: int, last: int) -> Tensor:
        top, bottom = first // 2, (last + 1) // 2
        rows = conv.rows(source.window(top - conv.reach[0], bottom + conv.reach[1], silu_by(affine)))
        return rows[:, :, first - 2 * top : last - 2 * top]

    return kept(layer, 2 * source.height, 2 * source.strip)


def steps_of(half: Any) -> list[Step]:
    """The layers of an encoder or decoder in the order in which they run, as (kind, module); both layouts."""
    is_diffusers = hasattr(half, "mid_block")
    levels, middle = (_levels, _middle) if is_diffusers else (_original_levels, _original_middle)
    is_encoder = hasattr(half, "down_blocks" if is_diffusers else "down")
    inner = [*levels(half), *middle(half)] if is_encoder else [*middle(half), *levels(half)]
    norm = half.conv_norm_out if is_diffusers else half.norm_out
    return [("first", half.conv_in), *inner, ("last", (norm, half.conv_out))]


def _levels(half: Any) -> Iterator[Step]:
    for block in half.down_blocks if hasattr(half, "down_blocks") else half.up_blocks:
        yield from (("residual", resnet) for resnet in block.resnets)
        yield from (("down", layer.conv) for layer in getattr(block, "downsamplers", None) or [])
        yield from (("up", layer.conv) for layer in getattr(block, "upsamplers", None) or [])


def _middle(half: Any) -> Iterator[Step]:
    """Residual blocks with an attention, or None, between them; nothing in a VAE without a middle (TVT's VAE-D4)."""
    if not len(half.mid_block.resnets):
        return
    first, *others = half.mid_block.resnets
    yield "residual", first
    for attention, block in zip(half.mid_block.attentions, others, strict=True):
        if attention is not None:
            yield "whole", attention
        yield "residual", block


def _original_levels(half: Any) -> Iterator[Step]:
    for level in half.down if hasattr(half, "down") else list(half.up)[::-1]:
        yield from (("residual", block) for block in level.block)
        yield from (
            (kind, getattr(level, kind + "sample").conv) for kind in ("down", "up") if hasattr(level, kind + "sample")
        )


def _original_middle(half: Any) -> Iterator[Step]:
    if isinstance(half.mid.block_1, NoMiddle):
        return
    yield from (("residual", half.mid.block_1), ("whole", half.mid.attn_1), ("residual", half.mid.block_2))


def run(half: Any, x: Tensor, how: str = STRIPS, report: Callable[[], None] = lambda: None) -> Tensor:
    """An encoder's or decoder's output for `x` (B, C, H, W), in `strips` or `frugal`.

    Equal to the half's own forward to rounding. `report` is called after each of `steps_of(half)`.
    """
    keep = how == STRIPS
    layers: dict[str, Callable[[Any, Map], Map]] = {
        "first": first_conv,
        "down": down,
        "up": partial(up, keep=keep),
        "residual": partial(residual, keep=keep),
    }
    current = Map.of(x)
    for kind, module in steps_of(half):
        if kind == "whole":
            assert current.kept is not None
            current = Map.of(module(current.kept))
        elif kind == "last":
            current = last_conv(module[0], module[1], current)
        else:
            current = layers[kind](module, current)
        report()
    assert current.kept is not None
    return current.kept


@contextmanager
def passing(half: Any, how: str, phase: str, report: Progress, rounds: int = 1) -> Iterator[None]:
    """Inside, the half's forward goes `how` (one of PASSES) and reports `phase`; the half itself is not changed.

    An exception from `report` ends the pass. `rounds` is how many times it will be run.
    """
    steps = steps_of(half)
    if how == WHOLE:
        modules = [module[1] if kind == "last" else module for kind, module in steps if kind not in ("down", "up")]
        with watch(modules, phase, report, rounds):
            yield
        return
    done, total = 0, rounds * len(steps)

    def finished() -> None:
        nonlocal done
        done += 1
        report(phase, done, total)

    report(phase, 0, total)
    half.forward = lambda x, **_: run(half, x, how, finished)
    try:
        yield
    finally:
        del half.forward
