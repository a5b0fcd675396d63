"""The halves of a FLUX-shaped autoencoder in strips of rows: whole pictures, less memory, the same result.

Nothing is tiled. A convolution reads the rows around its strip from its neighbours, and a group norm takes the
statistics of the whole map, gathered strip by strip before it is applied. So a residual block is three passes over its
map: statistics; first convolution, for the statistics of what it gives; both convolutions. It is written over its own
map where it can be, and enlarged maps are made when they are read, so that about one map exists at a time: a decoder
takes 0.3 of the memory of one pass and about twice the time.

Works on diffusers' AutoencoderKL and on the original layout, which ComfyUI uses, after `vae.make_f16` or without it.
Inference only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .group_norm import Affine, Moments, normalised, strip_rows, strips
from .progress import Progress, watch
from .vae import PhaseUpsample, SubPixelHead

WHOLE, STRIPS = "whole", "strips"
PASSES = (WHOLE, STRIPS)
"""How a half can be run: by its own forward, or as above."""

Step = tuple[str, Any]


@dataclass(frozen=True)
class Map:
    """A feature map (B, C, height, W) that is read in strips of rows: kept whole, or made when it is read."""

    height: int
    strip: int
    read: Callable[[int, int], Tensor]
    kept: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> "Map":
        """A map that is kept."""
        return cls(x.shape[2], strip_rows(x), lambda first, last: x[:, :, first:last], x)

    def strips(self) -> Iterator[tuple[int, int]]:
        """First and last row (not included) of each strip."""
        return strips(self.height, self.strip)

    def window(self, first: int, last: int, affine: Affine | None = None) -> Tensor:
        """Rows from `first` to `last`, normalised and activated if wanted, and zeros beyond the map's ends."""
        inside = self.read(max(0, first), min(self.height, last))
        if affine is not None:
            inside = F.silu(normalised(inside, affine), inplace=True).to(inside.dtype)
        above, below = max(0, -first), max(0, last - self.height)
        return F.pad(inside, (0, 0, above, below)) if above or below else inside


def norm_of(source: Map, norm: nn.GroupNorm) -> Affine:
    """A group norm's factor and summand from the whole of a map."""
    moments = Moments()
    for first, last in source.strips():
        moments.add(source.read(first, last))
    return moments.affine(norm)


def conv_rows(conv: nn.Conv2d, window: Tensor) -> Tensor:
    """A 3x3 convolution of rows that bring their neighbours along."""
    return F.conv2d(window, conv.weight, conv.bias, conv.stride, (0, conv.padding[1]))  # type: ignore[arg-type]


def kept(layer: Callable[[int, int], Tensor], height: int, rows: int) -> Map:
    """A map of `height` from `layer(first, last)`, which gives rows of it, `rows` at a time."""
    out: Tensor | None = None
    for first, last in strips(height, max(1, rows)):
        part = layer(first, last)
        out = _like(part, height) if out is None else out
        out[:, :, first:last] = part
    assert out is not None
    return Map.of(out)


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
        return F.conv2d(window, conv.weight, conv.bias, stride=2)

    return kept(layer, source.height // 2, source.strip // 2)


def up(conv: nn.Conv2d, source: Map) -> Map:
    """Nearest x2 and a 3x3 convolution, made anew whenever it is read."""
    phases = PhaseUpsample(conv)

    def layer(first: int, last: int) -> Tensor:
        top, bottom = first // 2, (last + 1) // 2
        rows = phases.rows(source.window(top - 1, bottom + 1))
        return rows[:, :, first - 2 * top : last - 2 * top]

    return Map(2 * source.height, max(2, source.strip // 2), layer)


def residual(block: Any, source: Map) -> Map:
    """A residual block; a kept map of unchanged width is overwritten."""
    first_norm = norm_of(source, block.norm1)

    def conv1(first: int, last: int) -> Tensor:
        return conv_rows(block.conv1, source.window(first - 1, last + 1, first_norm))

    hidden = Map(source.height, source.strip, conv1)
    second_norm = norm_of(hidden, block.norm2)
    shortcut = getattr(block, "conv_shortcut", None) or getattr(block, "nin_shortcut", None)

    def layer(first: int, last: int) -> Tensor:
        rows = conv_rows(block.conv2, hidden.window(first - 1, last + 1, second_norm))
        beside = source.read(first, last)
        return rows + (beside if shortcut is None else shortcut(beside))

    if source.kept is None or block.conv1.in_channels != block.conv1.out_channels:
        return kept(layer, source.height, source.strip)
    waiting: tuple[int, int, Tensor] | None = None
    for first, last in source.strips():
        rows = layer(first, last)
        # The next strip still reads the last rows of this one, so it is written one strip later.
        if waiting is not None:
            source.kept[:, :, waiting[0] : waiting[1]] = waiting[2]
        waiting = (first, last, rows)
    assert waiting is not None
    source.kept[:, :, waiting[0] : waiting[1]] = waiting[2]
    return source


def last_conv(norm: nn.GroupNorm, conv: nn.Module, source: Map) -> Map:
    """Norm, activation, and the last convolution or the F16 head."""
    affine = norm_of(source, norm)
    if not isinstance(conv, SubPixelHead):
        return kept(
            lambda first, last: conv_rows(conv, source.window(first - 1, last + 1, affine)),  # type: ignore[arg-type]
            source.height,
            source.strip,
        )

    def layer(first: int, last: int) -> Tensor:
        top, bottom = first // 2, (last + 1) // 2
        rows = conv.rows(source.window(top - conv.reach[0], bottom + conv.reach[1], affine))
        return rows[:, :, first - 2 * top : last - 2 * top]

    return kept(layer, 2 * source.height, 2 * source.strip)


def _like(rows: Tensor, height: int) -> Tensor:
    size = (*rows.shape[:2], height, rows.shape[3])
    return torch.empty(size, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)


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
    yield from (("residual", half.mid.block_1), ("whole", half.mid.attn_1), ("residual", half.mid.block_2))


def run(half: Any, x: Tensor, report: Callable[[], None] = lambda: None) -> Tensor:
    """An encoder's or decoder's output for `x` (B, C, H, W), in strips.

    Equal to the half's own forward to rounding. `report` is called after each of `steps_of(half)`.
    """
    layers = {"down": down, "up": up, "residual": residual, "first": first_conv}
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
    half.forward = lambda x, **_: run(half, x, finished)
    try:
        yield
    finally:
        del half.forward
