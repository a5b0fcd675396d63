"""Sizes, padding and token counts. Integer maths only, no torch.

A picture of any size is enlarged to an exact target, padded to what the models divide, and cropped back.
"""

import math
import numbers
from dataclasses import dataclass, field
from typing import Literal, get_args

from .declared import check, declare, setting
from .errors import SettingError

LATENT_FACTOR = 16
"""Picture px per latent px of the F16 VAE."""

TOKEN_PX = 2 * LATENT_FACTOR
"""Picture pixels along one side of a token: F16 latents, packed 2x2."""

MAX_SCALE = 16.0

Fit = Literal["fit", "crop", "pad"]
FITS: tuple[str, ...] = get_args(Fit)
"""How a picture of another shape goes into an exact size."""


@dataclass(frozen=True)
class Size:
    """Height and width in pixels, both at least 1."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not isinstance(side, numbers.Integral):
                raise SettingError(f"A picture's {name} is a whole number of px, got {side!r}.")
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
    """Where a picture comes from and goes to: source, exact target, target padded to what the models divide."""

    source: Size
    target: Size
    padded: Size
    latent_factor: int = LATENT_FACTOR

    @property
    def tokens(self) -> int:
        """Image tokens, of 2x2 latent px, that the model sees in its one pass."""
        return self.padded.pixels // (2 * self.latent_factor) ** 2

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}, padded {self.padded}, {self.tokens} tokens"


@dataclass(frozen=True)
class Frame:
    """How a picture goes into an exact size: the part of the source that is used, what it becomes, the whole canvas."""

    source: Size
    top: int
    left: int
    used: Size
    target: Size
    canvas: Size

    @classmethod
    def whole(cls, source: Size, target: Size) -> "Frame":
        """All of the picture, enlarged to `target` px."""
        return cls(source, 0, 0, source, target, target)


@dataclass(frozen=True)
class Part:
    """A rectangle within a picture, in px. Raises SettingError on a negative place or an empty size."""

    left: int
    top: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.left, self.top) < 0 or min(self.width, self.height) < 1:
            raise SettingError(f"A region starts at 0 or later and has sides of at least 1 px, got {self}.")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`120,80,160,120`: left, top, width, height. Raises SettingError."""
        try:
            left, top, width, height = (int(one) for one in text.split(","))
        except ValueError:
            raise SettingError(
                f"The region is left,top,width,height in px of the picture, for example 120,80,160,120; got {text!r}."
            ) from None
        return cls(left, top, width, height)

    @property
    def size(self) -> Size:
        return Size(self.height, self.width)

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.width},{self.height}"


@dataclass(frozen=True)
class Scale:
    """So many times the source's sides."""

    factor: float = setting(4.0, "Times the picture's size.", above=0, high=MAX_SCALE)

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        return f"scale {self.factor:g}"

    def frame(self, source: Size) -> Frame:
        """All of the picture at its target size."""
        return _enlarged(source, float(self.factor))


@dataclass(frozen=True)
class LongSide:
    """The longer side in px."""

    px: int = field(metadata=declare("Long side of the result. 4096 is 4K.", low=1, unit="px"))

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        return f"long side {self.px} px"

    def frame(self, source: Size) -> Frame:
        """All of the picture at its target size. Raises SettingError over 16 times the source."""
        return _enlarged(source, _side_factor("long", max(_sides(source)), self.px))


@dataclass(frozen=True)
class ShortSide:
    """The shorter side in px."""

    px: int = field(metadata=declare("Short side of the result.", low=1, unit="px"))

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        return f"short side {self.px} px"

    def frame(self, source: Size) -> Frame:
        """All of the picture at its target size. Raises SettingError over 16 times the source."""
        return _enlarged(source, _side_factor("short", min(_sides(source)), self.px))


@dataclass(frozen=True)
class Megapixels:
    """Millions of px."""

    millions: float = field(metadata=declare("Millions of px of the result.", above=0))

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        return f"{self.millions:g} megapixels"

    def frame(self, source: Size) -> Frame:
        """All of the picture at its target size. Raises SettingError over 16 times the source."""
        factor = math.sqrt(self.millions * 1e6 / source.pixels)
        if factor > MAX_SCALE:
            most = MAX_SCALE**2 * source.pixels / 1e6
            raise SettingError(
                f"{self} are over {MAX_SCALE:g} times the sides of {source}. Ask for at most {most:.3g}, or upscale "
                "twice."
            )
        return _enlarged(source, factor)


@dataclass(frozen=True)
class Box:
    """An exact size: `fit` goes inside it, `crop` is cut so that it fills it, `pad` has bars around.

    The picture keeps its shape to a source px.
    """

    size: Size
    fit: Fit = setting("fit", "Inside the exact size, cut to fill it, or with transparent bars.")

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        return f"{self.fit} {self.size} px"

    def frame(self, source: Size) -> Frame:
        """Raises SettingError over 16 times the source."""
        box, across, down = self.size, self.size.width / source.width, self.size.height / source.height
        factor = max(across, down) if self.fit == "crop" else min(across, down)
        if factor > MAX_SCALE:
            raise SettingError(f"{box} px is over {MAX_SCALE:g} times the picture's {source} px. Upscale twice.")
        if self.fit == "crop":
            used = Size(*(min(n, max(1, round(m / factor))) for n, m in zip(_sides(source), _sides(box), strict=True)))
            top, left = ((n - m) // 2 for n, m in zip(_sides(source), _sides(used), strict=True))
            return Frame(source, top, left, used, box, box)
        scaled = _scaled(source, factor)
        inside = Size(min(box.height, scaled.height), min(box.width, scaled.width))
        return Frame(source, 0, 0, source, inside, box if self.fit == "pad" else inside)


Target = Scale | LongSide | ShortSide | Megapixels | Box
"""What size is wanted, before the picture is known. Each raises SettingError on a value that no picture could have."""


def _enlarged(source: Size, factor: float) -> Frame:
    return Frame.whole(source, _scaled(source, factor))


def _scaled(source: Size, factor: float) -> Size:
    """Sides are rounded half up and are at least 1 px."""
    return Size(*(max(1, math.floor(side * factor + 0.5)) for side in _sides(source)))


def _side_factor(which: str, side: int, wanted: int) -> float:
    if wanted > MAX_SCALE * side:
        raise SettingError(
            f"A {which} side of {wanted} px is over {MAX_SCALE:g} times the picture's {side} px. "
            f"Ask for at most {int(MAX_SCALE * side)}, or upscale twice."
        )
    return wanted / side


def _sides(size: Size) -> tuple[int, int]:
    return size.height, size.width


def padded_side(side: int, multiple: int = TOKEN_PX) -> int:
    """The smallest multiple of `multiple` px that is not less than `side` px."""
    return -(-side // multiple) * multiple


def plan_size(source: Size, target: Target = Scale()) -> SizePlan:
    """Source, target and padded size of one picture for F16 models. Errors as of the target."""
    return plan_target(source, target.frame(source).target)


def plan_target(
    source: Size, target: Size, multiple_px: int = TOKEN_PX, latent_factor: int = LATENT_FACTOR
) -> SizePlan:
    """The plan for a target size that is known; sides are padded to multiples of `multiple_px`."""
    padded = Size(padded_side(target.height, multiple_px), padded_side(target.width, multiple_px))
    return SizePlan(source, target, padded, latent_factor)


def reflect_indices(side: int, total: int) -> list[int]:
    """Source index of each of `total` positions when `side` px are mirrored onwards at the end.

    The border pixel is not repeated (a b c -> a b c b a b ...). Works for any total, also one far
    larger than the side; a side of 1 repeats its only pixel.
    """
    if side == 1:
        return [0] * total
    period = 2 * (side - 1)
    return [min(i % period, period - i % period) for i in range(total)]
