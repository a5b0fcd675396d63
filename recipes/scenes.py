"""Procedural training pictures: dead leaves with occlusion, textures, gradients, lines and glyphs.

Everything is drawn with torch on any device from one integer seed. Edges are antialiased
analytically. Shapes are painted back to front in windows, so small shapes cost little.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

Window = tuple[slice, slice]
Fill = Callable[[Tensor, Tensor], Tensor]


class Scene:
    """One square picture under construction; `picture` is (3, size, size) in [0, 1]."""

    def __init__(self, size: int, seed: int, device: torch.device | str = "cpu"):
        self.size, self.device = size, device
        self.rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.stack([fractal_noise(size, slope, generator) for slope in (0.7, 1.2, 1.8)]).to(device)
        self.picture = torch.empty(3, size, size, device=device)
        grid = torch.arange(size, device=device, dtype=torch.float32) + 0.5
        self.y, self.x = torch.meshgrid(grid, grid, indexing="ij")

    def colour(self) -> Tensor:
        """A random RGB colour: any brightness, mostly muted."""
        grey, chroma = self.rng.uniform(0.03, 0.97), self.rng.choice((0.05, 0.15, 0.4))
        values = [min(1.0, max(0.0, grey + self.rng.uniform(-chroma, chroma))) for _ in range(3)]
        return torch.tensor(values, device=self.device)[:, None, None]

    def window(self, cx: float, cy: float, reach: float) -> Window | None:
        """The pixels within `reach` of a centre, or None where there are none."""
        x0, x1 = max(0, int(cx - reach)), min(self.size, int(cx + reach) + 1)
        y0, y1 = max(0, int(cy - reach)), min(self.size, int(cy + reach) + 1)
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def paint(self, window: Window, distance: Tensor, fill: Tensor, softness: float = 1.0) -> None:
        """Lays `fill` where the signed distance (px) is negative, the edge `softness` px wide."""
        alpha = (0.5 - distance / softness).clamp_(0, 1)
        part = self.picture[:, window[0], window[1]]
        part += alpha * (fill - part)


def fractal_noise(size: int, slope: float, generator: torch.Generator) -> Tensor:
    """(size, size) of zero mean and unit deviation with amplitude spectrum 1/f^slope."""
    white = torch.fft.rfft2(torch.randn(size, size, generator=generator))
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    radius = (fx**2 + fy**2).sqrt().clamp_(min=1 / size)
    field = torch.fft.irfft2(white / radius**slope, s=(size, size))
    return (field - field.mean()) / field.std()


def render(size: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """One scene, (3, size, size) in [0, 1], wholly determined by `seed`."""
    scene = Scene(size, seed, device)
    rng = scene.rng
    whole = (slice(0, size), slice(0, size))
    scene.picture[:] = _fill(scene, scene.x, scene.y, whole, ("gradient", "noise", "tinted"))
    smallest, coverage = rng.choice((3.0, 6.0, 12.0, 20.0)), rng.choice((0.5, 1.5, 4.0))
    for _ in range(int(coverage * size * size / (12 * smallest**2))):
        _leaf(scene, smallest)
    for _ in range(rng.choice((0, 4, 24))):
        _line(scene)
    for _ in range(rng.choice((0, 0, 1, 3))):
        _text(scene)
    return _light(scene)


def _leaf(scene: Scene, smallest: float) -> None:
    """One occluding shape; radii follow the power law r^-3 that gives natural statistics."""
    rng = scene.rng
    largest = max(scene.size / 3, smallest + 1)
    radius = (rng.uniform(largest**-2, smallest**-2)) ** -0.5
    cx, cy = rng.uniform(0, scene.size), rng.uniform(0, scene.size)
    window = scene.window(cx, cy, radius * 1.5 + 2)
    if window is None:
        return
    angle = rng.uniform(0, math.tau)
    dx, dy = scene.x[window] - cx, scene.y[window] - cy
    u, v = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    fill = _fill(scene, u, v, window)
    scene.paint(window, _shape(rng, u, v, radius), fill, rng.choice((1.0, 1.0, 1.0, 2.0, 5.0)))


def _shape(rng: random.Random, u: Tensor, v: Tensor, radius: float) -> Tensor:
    """Signed distance (px, negative inside) of an ellipse, rectangle, triangle or ring."""
    kind, flat = rng.choice(("ellipse", "rectangle", "triangle", "ring")), rng.uniform(0.2, 1.0)
    if kind == "ellipse":
        return ((u**2 + (v / flat) ** 2).sqrt() - radius) * flat
    if kind == "rectangle":
        return torch.maximum(u.abs() - radius, v.abs() - radius * flat)
    if kind == "triangle":
        sides = [u * math.cos(a) + v * math.sin(a) - radius * 0.6 for a in (0.0, math.tau / 3, 2 * math.tau / 3)]
        return torch.stack(sides).amax(0)
    return ((u**2 + v**2).sqrt() - radius).abs() - radius * 0.25 * flat


_FILLS = ("flat", "flat", "gradient", "gradient", "noise", "noise", "tinted", "stripes", "checks", "fibres")


def _fill(scene: Scene, u: Tensor, v: Tensor, window: Window, kinds: tuple[str, ...] = _FILLS) -> Tensor:
    """Colour of each pixel: flat, gradient, fractal texture, stripes, checks or fibres."""
    rng = scene.rng
    first, second = scene.colour(), scene.colour()
    kind = rng.choice(kinds)
    if kind == "flat":
        return first.expand(3, *u.shape)
    if kind in ("noise", "tinted"):
        shift = (rng.randrange(scene.size), rng.randrange(scene.size))
        field = scene.noise[rng.randrange(3)].roll(shift, (0, 1))[window] * rng.uniform(0.03, 0.25)
        return (first + field * (second if kind == "tinted" else 1.0)).clamp(0, 1)
    mix = _pattern(rng, kind, u, v)
    return first + mix * (second - first)


def _pattern(rng: random.Random, kind: str, u: Tensor, v: Tensor) -> Tensor:
    """Mixing weight in [0, 1] of a gradient or a repeating pattern of 2.5 to 40 px."""
    period = 2.5 * 16 ** rng.random()
    if kind == "gradient":
        return ((u * rng.uniform(-1, 1) + v * rng.uniform(-1, 1)) / 100 + 0.5).clamp(0, 1)
    if kind == "stripes":
        return _wave(u, period, rng.random() < 0.5)
    if kind == "checks":
        a, b = _wave(u, period, True), _wave(v, period * rng.uniform(0.7, 1.5), True)
        return a + b - 2 * a * b
    wobble = torch.sin(v * math.tau / (period * 9)) * period * 0.7
    return _wave(u + wobble, period, False) * _wave(u * 0.37 + v * 0.06, period, False)


def _wave(u: Tensor, period: float, square: bool) -> Tensor:
    """A sine or an antialiased square wave in [0, 1]."""
    wave = torch.sin(u * (math.tau / period))
    return (wave * (period / math.pi) * 0.5 + 0.5).clamp(0, 1) if square else wave * 0.5 + 0.5


def _line(scene: Scene) -> None:
    rng = scene.rng
    ax, ay = rng.uniform(0, scene.size), rng.uniform(0, scene.size)
    angle, length = rng.uniform(0, math.tau), rng.uniform(8, scene.size / 2)
    end = (ax + length * math.cos(angle), ay + length * math.sin(angle))
    _segment(scene, (ax, ay), end, rng.uniform(0.4, 3.0), scene.colour())


def _segment(scene: Scene, a: tuple[float, float], b: tuple[float, float], half: float, colour: Tensor) -> None:
    """A straight stroke from a to b, `half` px to each side, with round ends."""
    cx, cy = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
    length = math.hypot(b[0] - a[0], b[1] - a[1])
    window = scene.window(cx, cy, length / 2 + half + 1)
    if window is None or length == 0:
        return
    ux, uy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    dx, dy = scene.x[window] - cx, scene.y[window] - cy
    along = ((dx * ux + dy * uy).abs() - length / 2).clamp(min=0)
    across = dy * ux - dx * uy
    scene.paint(window, (along**2 + across**2).sqrt() - half, colour)


def _text(scene: Scene) -> None:
    """Rows of invented letters, each two to four strokes between the points of a 3x4 grid."""
    rng, colour = scene.rng, scene.colour()
    height = rng.uniform(7, 40)
    half, left, top = height * rng.uniform(0.04, 0.1), rng.uniform(0, scene.size / 2), rng.uniform(0, scene.size)
    for row in range(rng.randint(1, 3)):
        for column in range(rng.randint(3, 12)):
            if rng.random() < 0.15:
                continue
            x, y = left + column * height * 0.75, top + row * height * 1.5
            points = [(x + rng.randrange(3) * height / 4, y + rng.randrange(4) * height / 3) for _ in range(4)]
            for a, b in zip(points, points[1:], strict=False):
                _segment(scene, a, b, max(0.4, half), colour)


def _light(scene: Scene) -> Tensor:
    """A soft illumination slope over everything."""
    rng = scene.rng
    slope = (scene.x * rng.uniform(-1, 1) + scene.y * rng.uniform(-1, 1)) / scene.size
    return (scene.picture * (1 + 0.3 * slope)).clamp_(0, 1)
