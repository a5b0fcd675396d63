"""Sizes, padding and token counts. Integer maths only, no torch.

A picture of any size is enlarged to an exact target, padded to whole tokens, and cropped back.
"""

import math
from dataclasses import dataclass

from .errors import SettingError

TOKEN_PX = 32
"""Picture pixels along one side of a token: F16 latents, packed 2x2."""

MAX_SCALE = 16.0


@dataclass(frozen=True)
class Size:
    """Height and width in pixels, both at least 1."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise SettingError(f"A picture needs sides of at least 1 px, got {self.width}x{self.height}.")

    @classmethod
    def parse(cls, text: str) -> "Size":
        """`1024x768`, width first. Raises SettingError."""
        try:
            width, height = (int(part) for part in text.lower().split("x"))
        except ValueError:
            raise SettingError(f"The size is WIDTHxHEIGHT, for example 1024x768; got {text!r}.") from None
        return cls(height, width)

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class SizePlan:
    """Where a picture comes from and goes to: source, exact target, target padded to whole tokens."""

    source: Size
    target: Size
    padded: Size
    token_px: int = TOKEN_PX

    @property
    def tokens(self) -> int:
        """Image tokens that the transformer sees in its one pass."""
        return self.padded.pixels // self.token_px**2

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}, padded {self.padded}, {self.tokens} tokens"


def target_size(source: Size, scale: float | None = None, long_side: int | None = None) -> Size:
    """The exact output size for a scale factor (default 4) or a long side in px; never both.

    Sides are rounded half up and are at least 1 px. Raises SettingError on a scale that is not
    finite and in (0, 16], a long side below 1, a long side over 16 times the source's, or both given.
    """
    if scale is not None and long_side is not None:
        raise SettingError(f"Give a scale or a long side, not both (scale={scale}, long side={long_side}).")
    if long_side is not None:
        factor = _long_side_factor(source, long_side)
    else:
        factor = 4.0 if scale is None else float(scale)
        if not math.isfinite(factor) or not 0 < factor <= MAX_SCALE:
            raise SettingError(f"Scale must be a number above 0 and at most {MAX_SCALE:g}, got {scale}.")
    return Size(*(max(1, math.floor(side * factor + 0.5)) for side in (source.height, source.width)))


def _long_side_factor(source: Size, long_side: int) -> float:
    longest = max(source.height, source.width)
    if long_side < 1:
        raise SettingError(f"The long side must be at least 1 px, got {long_side}.")
    if long_side > MAX_SCALE * longest:
        raise SettingError(
            f"A long side of {long_side} px is over {MAX_SCALE:g} times the picture's {longest} px. "
            f"Ask for at most {int(MAX_SCALE * longest)}, or upscale twice."
        )
    return long_side / longest


def padded_side(side: int, multiple: int = TOKEN_PX) -> int:
    """The smallest multiple of `multiple` px that is not less than `side` px."""
    return -(-side // multiple) * multiple


def plan_size(
    source: Size, scale: float | None = None, long_side: int | None = None, token_px: int = TOKEN_PX
) -> SizePlan:
    """Source, target and padded size of one picture. Errors as in `target_size`."""
    target = target_size(source, scale, long_side)
    padded = Size(padded_side(target.height, token_px), padded_side(target.width, token_px))
    return SizePlan(source, target, padded, token_px)


def reflect_indices(side: int, total: int) -> list[int]:
    """Source index of each of `total` positions when `side` px are mirrored onwards at the end.

    The border pixel is not repeated (a b c -> a b c b a b ...). Works for any total, also one far
    larger than the side; a side of 1 repeats its only pixel.
    """
    if side == 1:
        return [0] * total
    period = 2 * (side - 1)
    return [min(i % period, period - i % period) for i in range(total)]
