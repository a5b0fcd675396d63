"""Sizes, padding and token counts. Integer maths only, no torch.

A picture of any size is enlarged to an exact target, padded to what the models divide, and cropped back.
"""

import math
import numbers
from dataclasses import dataclass

from .errors import SettingError

LATENT_FACTOR = 16
"""Picture px per latent px of the F16 VAE."""

TOKEN_PX = 2 * LATENT_FACTOR
"""Picture pixels along one side of a token: F16 latents, packed 2x2."""

MAX_SCALE = 16.0

FITS = ("fit", "crop", "pad")
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


def target_size(
    source: Size,
    scale: float | None = None,
    long_side: int | None = None,
    short_side: int | None = None,
    megapixels: float | None = None,
) -> Size:
    """The output size for a scale factor (default 4), a long or short side in px, or millions of px; one of them.

    Sides are rounded half up and are at least 1 px. Raises SettingError on a scale that is not finite and in (0, 16],
    a side below 1, megapixels not finite and above 0, a result over 16 times the source, or several given.
    """
    given = {"scale": scale, "long side": long_side, "short side": short_side, "megapixels": megapixels}
    wanted = {name: value for name, value in given.items() if value is not None}
    if len(wanted) > 1:
        named = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise SettingError(f"Give one of scale, long side, short side and megapixels; got {named}.")
    for name, value in wanted.items():
        if not isinstance(value, numbers.Real):
            raise SettingError(f"The {name} must be a number, got {value!r}.")
    if long_side is not None:
        factor = _side_factor("long", max(source.height, source.width), long_side)
    elif short_side is not None:
        factor = _side_factor("short", min(source.height, source.width), short_side)
    elif megapixels is not None:
        factor = _megapixel_factor(source, megapixels)
    else:
        factor = 4.0 if scale is None else float(scale)
        if not math.isfinite(factor) or not 0 < factor <= MAX_SCALE:
            raise SettingError(f"Scale must be a number above 0 and at most {MAX_SCALE:g}, got {scale}.")
    return Size(*(max(1, math.floor(side * factor + 0.5)) for side in (source.height, source.width)))


def _side_factor(which: str, side: int, wanted: int) -> float:
    if not math.isfinite(wanted) or wanted < 1 or wanted != int(wanted):
        raise SettingError(f"The {which} side must be a whole number of at least 1 px, got {wanted}.")
    if wanted > MAX_SCALE * side:
        raise SettingError(
            f"A {which} side of {wanted} px is over {MAX_SCALE:g} times the picture's {side} px. "
            f"Ask for at most {int(MAX_SCALE * side)}, or upscale twice."
        )
    return wanted / side


def _megapixel_factor(source: Size, megapixels: float) -> float:
    if not (math.isfinite(megapixels) and megapixels > 0):
        raise SettingError(f"Megapixels must be a finite number above 0, got {megapixels}.")
    factor = math.sqrt(megapixels * 1e6 / source.pixels)
    if factor > MAX_SCALE:
        most = MAX_SCALE**2 * source.pixels / 1e6
        raise SettingError(
            f"{megapixels:g} megapixels are over {MAX_SCALE:g} times the sides of {source}. Ask for at most "
            f"{most:.3g}, or upscale twice."
        )
    return factor


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


def frame(source: Size, box: Size, fit: str = "fit") -> Frame:
    """A picture of `source` px in a box: `fit` inside it, `crop` so that it fills it, `pad` with bars around.

    The picture keeps its shape to a source px. Raises SettingError on another word, or over 16 times the source.
    """
    _check_fit(fit)
    across, down = box.width / source.width, box.height / source.height
    factor = max(across, down) if fit == "crop" else min(across, down)
    if factor > MAX_SCALE:
        raise SettingError(f"{box} px is over {MAX_SCALE:g} times the picture's {source} px. Upscale twice.")
    if fit == "crop":
        used = Size(*(min(n, max(1, round(m / factor))) for n, m in zip(_sides(source), _sides(box), strict=True)))
        top, left = ((n - m) // 2 for n, m in zip(_sides(source), _sides(used), strict=True))
        return Frame(source, top, left, used, box, box)
    inside = Size(
        *(min(m, max(1, math.floor(n * factor + 0.5))) for n, m in zip(_sides(source), _sides(box), strict=True))
    )
    return Frame(source, 0, 0, source, inside, box if fit == "pad" else inside)


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise SettingError(f"Fit must be one of {', '.join(FITS)}, got {fit!r}.")


def _sides(size: Size) -> tuple[int, int]:
    return size.height, size.width


@dataclass(frozen=True)
class Sizing:
    """What size is wanted, before the picture is known: one of the first five, or four times as large.

    `exact` is the box of `fit` (fit, crop, pad). Values are checked against each picture by `frame_of`.
    """

    scale: float | None = None
    long_side: int | None = None
    short_side: int | None = None
    megapixels: float | None = None
    exact: Size | None = None
    fit: str = "fit"

    def check(self) -> None:
        """Raises SettingError where no picture could be made so: several sizes, or one out of range."""
        _check_fit(self.fit)
        others = (self.scale, self.long_side, self.short_side, self.megapixels)
        if self.exact is not None and any(value is not None for value in others):
            raise SettingError(f"Give an exact size ({self.exact}) or a scale, side or megapixels, not both.")
        target_size(Size(2**20, 2**20), *others)

    def frame_of(self, source: Size) -> Frame:
        """Errors as of `check`, `target_size` and `frame`."""
        self.check()
        if self.exact is not None:
            return frame(source, self.exact, self.fit)
        target = target_size(source, self.scale, self.long_side, self.short_side, self.megapixels)
        return Frame.whole(source, target)


def padded_side(side: int, multiple: int = TOKEN_PX) -> int:
    """The smallest multiple of `multiple` px that is not less than `side` px."""
    return -(-side // multiple) * multiple


def plan_size(source: Size, scale: float | None = None, long_side: int | None = None) -> SizePlan:
    """Source, target and padded size of one picture for F16 models. Errors as in `target_size`."""
    return plan_target(source, target_size(source, scale, long_side))


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
