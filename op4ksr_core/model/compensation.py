"""High-frequency compensation: the fine detail that 16x compression cannot carry, added behind any model.

OP4KSR (arXiv 2605.13457) names it as future work; this form of it is ours. A small convolutional network looks at the
low-resolution picture and, folded to the same size, at the picture that a model has made of it, and adds what it
has learned to be missing. It works at a quarter of the picture's side. The bundled one
sees 22 px around, 88 px of the picture.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ImageError, WeightsError
from ..files import at_home
from ..geometry import Size
from ..paths import COMPENSATION
from ..picture.checks import check_image
from ..picture.colour import ROUNDS, limit_overshoot, wavelet_fix
from ..picture.resample import channels_last, crop, pad_reflect, resize
from ..picture.soft_areas import limit_texture
from ..progress import Progress
from ..settings import MAX_COMPENSATION, check_range
from .rowwise import Layer, Map, conv_rows, kept, overwritten, strip_rows, strips

FACTOR = 4


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.gelu(self.first(x)))
        return x + change


class HighFrequencyCompensation(nn.Module):
    """(LR (B, 3, h, w), picture (B, 3, 4h, 4w)), both in [0, 1] -> detail (B, 3, 4h, 4w) to be added to the picture.

    A new one adds nothing: its last convolution is zero.
    """

    def __init__(self, width: int = 64, blocks: int = 6):
        super().__init__()
        self.head = nn.Conv2d(3 + 3 * FACTOR**2, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.tail = nn.Conv2d(width, 3 * FACTOR**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, lr: Tensor, picture: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(self.body(self.head(self.folded(lr, picture)))), FACTOR)

    @property
    def sees(self) -> int:
        """LR px around a px that its detail depends on: one a convolution."""
        return 2 * len(self.body) + 2

    @staticmethod
    def folded(lr: Tensor, picture: Tensor) -> Tensor:
        """What the first layer sees: both, at the size of the smaller, about zero."""
        return torch.cat([lr, F.pixel_unshuffle(picture, FACTOR)], 1) - 0.5


def network_of(state: dict[str, Tensor]) -> HighFrequencyCompensation:
    """The network that a state dict belongs to, of any width and depth."""
    module = HighFrequencyCompensation(len(state["head.weight"]), sum(key.endswith(".first.weight") for key in state))
    module.load_state_dict(state)
    return module


def load_compensation(path: str | Path = COMPENSATION) -> HighFrequencyCompensation:
    """The network of a safetensors file, float32. Raises WeightsError where it is missing or is something else."""
    from safetensors.torch import load_file

    path = at_home(path)
    if not path.is_file():
        raise WeightsError(f"The compensation weights {path} are missing.")
    try:
        module = network_of({name: value.float() for name, value in load_file(path).items()})
    except Exception as error:  # a foreign or damaged file can fail in any way
        raise WeightsError(f"{path} holds no compensation network ({error}).") from error
    return module.requires_grad_(False).eval()


@torch.inference_mode()
def compensate(
    picture_bchw: Tensor,
    lr_bchw: Tensor,
    strength: float = 1.0,
    module: HighFrequencyCompensation | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The picture (B, 3, H, W) in [0, 1] with `strength` in [0, 2] times the missing detail and its own low band,
    clamped to [0, 1]. No detail is added where the LR picture is flat (`limit_overshoot`), and little where the picture
    is soft (`limit_texture`).

    lr (B, 3, h, w) is the picture that it was made from; it is resampled to a quarter of H and W, what the network was
    trained for. Each layer works in strips of rows on the whole map; two maps live at once, 32 bytes per px of picture
    with the bundled weights, which are used without `module`. The network runs in its weights' dtype, all else in
    float32. Raises SettingError, ImageError.
    """
    check_range("Compensation", strength, 0, MAX_COMPENSATION)
    check_image(picture_bchw, "The picture to be compensated")
    check_image(lr_bchw, "The picture that it was made from")
    if len(picture_bchw) != len(lr_bchw):
        raise ImageError(
            f"Compensation wants as many LR pictures as pictures; got {len(lr_bchw)} and {len(picture_bchw)}."
        )
    if strength == 0:
        return picture_bchw
    module = (module or load_compensation()).to(picture_bchw.device)
    size = Size(*picture_bchw.shape[-2:])
    padded = Size(*(math.ceil(side / FACTOR) * FACTOR for side in (size.height, size.width)))
    picture = pad_reflect(picture_bchw.float(), padded) if padded != size else picture_bchw.float()
    lr = resize(lr_bchw.float(), Size(padded.height // FACTOR, padded.width // FACTOR))
    # A border of mirrored px: the convolutions' zero padding would draw a frame.
    border = module.sees
    around = _mirrored(lr, border), _mirrored(picture, FACTOR * border)
    made = _with_detail(module, *around, strength, progress or (lambda *_: None))
    inner = slice(FACTOR * border, None)
    made, before = crop(made[..., inner, inner], size), picture_bchw.float()
    for _ in range(ROUNDS):
        # What is added is detail: the picture keeps its low band, from which clamping took its share.
        made = limit_overshoot(wavelet_fix(made, before).clamp_(0, 1), lr_bchw.float(), before)
    return limit_texture(made, before)


def _mirrored(x: Tensor, border: int) -> Tensor:
    """The map with `border` px more on every side; small maps are continued by their last px."""
    return F.pad(x, (border,) * 4, mode="reflect" if border < min(x.shape[-2:]) else "replicate")


def _with_detail(
    module: HighFrequencyCompensation, lr: Tensor, picture: Tensor, strength: float, progress: Progress
) -> Tensor:
    """Picture (B, 3, 4h, 4w) and `strength` times the network's forward, clamped; every layer in strips."""
    height, total, dtype = lr.shape[2], len(module.body) + 2, module.head.weight.dtype

    def folded(first: int, last: int) -> Tensor:
        rows = module.folded(lr[:, :, first:last], picture[:, :, first * FACTOR : last * FACTOR])
        return channels_last(rows.to(dtype))

    def rows_of(conv: nn.Conv2d, source: Map) -> Layer:
        return lambda first, last: conv_rows(conv, source.window(first - 1, last + 1))

    strip = strip_rows(lr[:, :1].expand(-1, module.head.out_channels, -1, -1))
    x = kept(rows_of(module.head, Map(height, strip, folded)), height, strip)
    hidden: Map | None = None
    for done, block in enumerate(module.body, 1):
        assert isinstance(block, ResidualBlock)
        progress("compensate", done, total)
        first = _activated(rows_of(block.first, x))
        hidden = kept(first, height, strip) if hidden is None else overwritten(first, hidden)
        x = overwritten(_added(rows_of(block.second, hidden), x), x)
    progress("compensate", total - 1, total)
    out, tail = torch.empty_like(picture), rows_of(module.tail, x)
    for top, bottom in strips(height, strip):
        band = slice(top * FACTOR, bottom * FACTOR)
        detail = F.pixel_shuffle(tail(top, bottom).float(), FACTOR)
        out[:, :, band] = (picture[:, :, band] + strength * detail).clamp_(0, 1)
    progress("compensate", total, total)
    return out


def _activated(layer: Layer) -> Layer:
    """GELU over what a layer gives."""
    return lambda first, last: torch.ops.aten.gelu_(layer(first, last))


def _added(layer: Layer, x: Map) -> Layer:
    """What a layer gives, and the same rows of a map."""
    return lambda first, last: layer(first, last).add_(x.read(first, last))
