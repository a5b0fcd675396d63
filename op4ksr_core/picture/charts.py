"""Line charts and labels drawn with Pillow: what the reports share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, RED = "#222", "#ddd", "#c0282d"
COLOURS = ("#2a6fb0", "#c0282d", "#2f8f4e", "#b8860b", "#7b4fa3", "#1f9aa8", "#8a5a44", "#666666")
"""Of the first, second ... curve."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 28, 50, 44


@dataclass(frozen=True)
class Curve:
    """Points (x, y) joined by a line; `marks` puts a dot on each."""

    points: Sequence[tuple[float, float]]
    colour: str
    label: str = ""
    marks: bool = False
    width: int = 2


@dataclass(frozen=True)
class Axis:
    """One axis of a chart: its name, its range, and whether it is logarithmic. `ticks` None chooses them."""

    name: str
    low: float
    high: float
    logarithmic: bool = False
    ticks: Sequence[float] | None = None

    def share(self, value: float) -> float:
        """Where along the axis a value lies, 0 to 1, held inside."""
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, self._held(value)))
        return (value - low) / (high - low)

    def _held(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    def marks(self) -> list[float]:
        """The ticks given, or round numbers: powers of ten, or about five steps of 1, 2 or 5."""
        if self.ticks is not None:
            return list(self.ticks)
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = min((unit * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Chart:
    """A line chart. `levels` are horizontal lines and `places` vertical ones, by label."""

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    levels: dict[str, float] = field(default_factory=dict)
    places: dict[str, float] = field(default_factory=dict)

    def draw(self, width: int = 640, height: int = 400) -> Image.Image:
        """The chart as an RGB picture."""
        image = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(image)

        def at(x: float, y: float) -> tuple[float, float]:
            across = _LEFT + self.x.share(x) * (width - _LEFT - _RIGHT)
            return across, height - _BOTTOM - self.y.share(y) * (height - _TOP - _BOTTOM)

        draw.text((_LEFT, 6), self.title, fill=INK, font=font(15))
        for mark in self.y.marks():
            draw.line([at(self.x.low, mark), at(self.x.high, mark)], fill=FAINT)
            draw.text((_LEFT - 6, at(self.x.low, mark)[1]), f"{mark:g}", fill=INK, font=font(12), anchor="rm")
        for mark in self.x.marks():
            x, y = at(mark, self.y.low)
            draw.line([(x, y), (x, _TOP)], fill=FAINT)
            draw.text((x, y + 5), f"{mark:g}", fill=INK, font=font(12), anchor="ma")
        draw.text((width / 2, height - 6), f"{self.x.name}   (up: {self.y.name})", fill=INK, font=font(13), anchor="md")
        for label, level in self.levels.items():
            draw.line([at(self.x.low, level), at(self.x.high, level)], fill=RED, width=1)
            draw.text((_LEFT + 4, at(self.x.low, level)[1] - 2), label, fill=RED, font=font(12), anchor="ld")
        for label, place in self.places.items():
            draw.line([at(place, self.y.low), at(place, self.y.high)], fill=RED, width=2)
            draw.text((at(place, self.y.high)[0] + 5, _TOP + 2), label, fill=RED, font=font(12))
        for curve in self.curves:
            _draw_curve(draw, curve, [at(*point) for point in curve.points])
        self._legend(draw)
        return image

    def _legend(self, draw: ImageDraw.ImageDraw) -> None:
        x = _LEFT
        for curve in self.curves:
            if curve.label:
                draw.line([(x, 38), (x + 18, 38)], fill=curve.colour, width=3)
                draw.text((x + 22, 38), curve.label, fill=INK, font=font(12), anchor="lm")
                x += 40 + round(font(12).getlength(curve.label))


def _draw_curve(draw: ImageDraw.ImageDraw, curve: Curve, points: list[tuple[float, float]]) -> None:
    if len(points) > 1:
        draw.line(points, fill=curve.colour, width=curve.width)
    if curve.marks:
        for x, y in points:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=curve.colour)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)
