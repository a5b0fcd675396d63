"""Theta sweep: one picture under several RoPE bases and mid-timesteps, judged by lattice and by sharpness."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..errors import SettingError
from ..lattice.inspector import Inspection, inspect, inspect_made
from ..lattice.spectrum import high_passed, luma255
from ..picture.charts import COLOURS, INK, RED, Axis, Chart, Curve, font
from ..picture.convert import as_picture
from ..settings import RopeSettings, check_sigma

CROP = 256
_CONTRAST = 16  # of the flat crop, so that 1/255 can be seen
_NEAR = 0.05  # scores that count as equal,
_SHARP = 0.99  # and share of the greatest sharpness
_PITCH, _PITCH_NEAR = 3.0, 1.0  # dB over the background that the 32-px pitch may stand, and over the lowest
_LABEL, _GAP = 46, 8


@dataclass(frozen=True)
class Frames:
    """Where the crops are cut, (top, left) and side: the most detailed and the flattest square of the first picture."""

    side: int
    detail: tuple[int, int]
    flat_side: int
    flat: tuple[int, int]


@dataclass(frozen=True)
class Trial:
    """One setting's result.

    score, period: the inspector's, the higher of the picture and of the one before compensation, which can hide a
    lattice. decibels: the 32-px pitch's own lattice points over their background before compensation, 0 being chance.
    sharpness: variance of the Laplacian of luma in 1/255. change: mean difference to the first trial in both crops,
    1/255. detail, flat: the crops, (3, side, side) in [0, 1].
    """

    theta: float
    sigma: float
    score: float
    period: float
    decibels: float
    sharpness: float
    change: float
    detail: Tensor
    flat: Tensor

    def as_dict(self) -> dict:
        """The numbers, for JSON."""
        names = ("theta", "sigma", "score", "period", "decibels", "sharpness", "change")
        return {name: getattr(self, name) for name in names}


def settings_of(thetas: Sequence[float], sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Every (theta, sigma), thetas running faster. Raises SettingError on an empty list, a repeat or a bad value."""
    for name, values in (("theta", thetas), ("sigma", sigmas)):
        if not values:
            raise SettingError(f"Give at least one {name}.")
        if len(set(values)) != len(values):
            raise SettingError(f"Each {name} can be tried once; got {', '.join(f'{v:g}' for v in values)}.")
    for theta in thetas:
        RopeSettings(theta)
    for sigma in sigmas:
        check_sigma(sigma)
    return [(theta, sigma) for sigma in sigmas for theta in thetas]


def numbers_of(text: str) -> list[float]:
    """Numbers out of a comma-separated line. Raises SettingError."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SettingError(f"Give numbers with commas between, like 100, 10000; got {text!r}.") from None


def sharpness(image_chw: Tensor) -> float:
    """Variance of the 4-neighbour Laplacian of luma, (1/255)^2. A lattice adds to it, as any detail does."""
    y = luma255(image_chw)
    inner = y[1:-1, 1:-1]
    return float((4 * inner - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]).var())


def choose_frames(image_chw: Tensor) -> Frames:
    """The most detailed 256 px, and the flattest 128 px that are neither black nor white (less in small pictures)."""
    y = luma255(image_chw)[None, None]
    energy = high_passed(y[0, 0])[None, None].square()
    side = min(CROP, *y.shape[-2:])
    half = max(1, side // 2)
    step = max(1, side // 8)
    detail, flat = (avg_pool2d(energy, size, step)[0, 0] for size in (side, half))
    mean = avg_pool2d(y, half, step)[0, 0]
    clipped = (mean < 10) | (mean > 245)
    if not clipped.all():
        flat = torch.where(clipped, torch.inf, flat)
    busiest, quiet = divmod(int(detail.argmax()), detail.shape[1]), divmod(int(flat.argmin()), flat.shape[1])
    return Frames(side, (busiest[0] * step, busiest[1] * step), half, (quiet[0] * step, quiet[1] * step))


def judge(
    theta: float,
    sigma: float,
    picture_chw: Tensor,
    frames: Frames,
    first: Trial | None = None,
    small_chw: Tensor | None = None,
    plain_chw: Tensor | None = None,
) -> Trial:
    """Measures one result (3, H, W) in [0, 1]. `first` is the trial that `change` compares with, itself if None.

    `small_chw` (3, h, w) is the picture it was made from: only what was added to it is judged. `plain_chw` (3, H, W) is
    the result before compensation.
    """
    plain = _inspected(picture_chw if plain_chw is None else plain_chw, small_chw)
    found = plain
    if plain_chw is not None and not torch.equal(plain_chw, picture_chw):
        found = max(plain, _inspected(picture_chw, small_chw), key=lambda one: one.score)
    places = ((frames.detail, frames.side), (frames.flat, frames.flat_side))
    crops = [picture_chw[:, top : top + side, left : left + side].clone() for (top, left), side in places]
    change = 0.0
    if first is not None:
        pairs = zip(crops, (first.detail, first.flat), strict=True)
        change = 255 / 2 * sum(float((a - b).abs().mean()) for a, b in pairs)
    return Trial(
        theta, sigma, found.score, found.period, plain.suspects[32], sharpness(picture_chw), change, crops[0], crops[1]
    )


def _inspected(picture_chw: Tensor, small_chw: Tensor | None) -> Inspection:
    if small_chw is None:
        return inspect(picture_chw, suspects=(32,))
    return inspect_made(picture_chw, small_chw, suspects=(32,))


def best(trials: Sequence[Trial]) -> Trial:
    """Of the trials whose score is within 0.05 of the lowest, the sharpest; within 1 % of it, the first given.

    Trials whose 32-px pitch stands more than 3 dB over its background, and 1 dB over the lowest, are left out.
    """
    quiet = max(_PITCH, min(trial.decibels for trial in trials) + _PITCH_NEAR)
    fine = [trial for trial in trials if trial.decibels <= quiet]
    least = min(trial.score for trial in fine)
    clean = [trial for trial in fine if trial.score <= least + _NEAR]
    wanted = _SHARP * max(trial.sharpness for trial in clean)
    return next(trial for trial in clean if trial.sharpness >= wanted)


def sentences(trials: Sequence[Trial]) -> list[str]:
    """What was found, in plain sentences."""
    chosen = best(trials)
    lines = [
        f"Theta {t.theta:g}, sigma {t.sigma:g}: score {t.score:.2f}"
        + (f" (period {t.period:.4g} px)" if t.period else "")
        + f", 32-px pitch {t.decibels:+.1f} dB, sharpness {t.sharpness:.1f}, {t.change:.2f}/255 from the first."
        for t in trials
    ]
    lines.append(f"Best by score, then sharpness: theta {chosen.theta:g}, sigma {chosen.sigma:g}.")
    if chosen.decibels > _PITCH:
        lines.append(
            f"None is free of the 32-px pitch: even there it stands {chosen.decibels:.1f} dB over its background "
            "before compensation. Try a sigma nearer to the one that the model was trained at."
        )
    if len(trials) > 1 and max(t.change for t in trials) < 1:
        lines.append(
            "Where it was measured all differ by less than 1/255 on average: the picture hardly depends on them."
        )
    return lines


def contact_sheet(trials: Sequence[Trial]) -> Image.Image:
    """Rows of sigma, columns of theta: each detail crop above the flat crop at sixteen times the contrast."""
    thetas = list(dict.fromkeys(trial.theta for trial in trials))
    sigmas = list(dict.fromkeys(trial.sigma for trial in trials))
    side, chosen = trials[0].detail.shape[-1], best(trials)
    wide, tall = max(side, 200) + _GAP, 2 * side + _LABEL + 2 * _GAP
    sheet = Image.new("RGB", (len(thetas) * wide + _GAP, len(sigmas) * tall + 50), "white")
    draw = ImageDraw.Draw(sheet)
    for trial in trials:
        x, y = _GAP + thetas.index(trial.theta) * wide, sigmas.index(trial.sigma) * tall
        colour = RED if trial is chosen else INK
        mark = "  best" if trial is chosen else ""
        draw.text((x, y + 4), f"theta {trial.theta:g}, sigma {trial.sigma:g}{mark}", fill=colour, font=font(16))
        words = f"score {trial.score:.2f}, sharpness {trial.sharpness:.1f}"
        draw.text((x, y + 25), words, fill=colour, font=font(13))
        sheet.paste(as_picture(trial.detail), (x, y + _LABEL))
        flat = as_picture(boosted(trial.flat)).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(flat, (x, y + _LABEL + side + 4))
    words = f"Above: the most detailed {side} px.\n"
    words += f"Below: flattest {trials[0].flat.shape[-1]} px, twice as large, contrast x{_CONTRAST}."
    draw.multiline_text((_GAP, sheet.height - 44), words, fill=INK, font=font(12))
    return sheet


def boosted(crop_chw: Tensor) -> Tensor:
    """Luma less its mean over 33 px, times sixteen, around middle grey: (3, H, W)."""
    wave = high_passed(luma255(crop_chw)) / 255
    return (0.5 + _CONTRAST * wave).clamp(0, 1).expand(3, -1, -1)


def plot(trials: Sequence[Trial]) -> Image.Image:
    """Score, 32-px pitch and sharpness against theta, a curve per sigma, the best theta marked: three charts."""
    thetas = sorted({trial.theta for trial in trials})
    sigmas = list(dict.fromkeys(trial.sigma for trial in trials))
    ends = (thetas[0], thetas[-1]) if len(thetas) > 1 else (thetas[0] / 2, thetas[0] * 2)
    across = Axis("theta", *ends, logarithmic=True, ticks=thetas)
    sheet = Image.new("RGB", (640, 3 * 300), "white")
    for n, (title, name, least) in enumerate(
        (
            ("Lattice score", "score", (0.0, 1.0)),
            ("32-px pitch over its background, dB", "decibels", (-1.0, 3.0)),
            ("Sharpness, variance of the Laplacian", "sharpness", None),
        )
    ):
        values = [getattr(trial, name) for trial in trials]
        middle = sum(values) / len(values)
        low, high = least or (0.95 * middle, 1.05 * middle + 1e-6)
        room = 0.05 * (max(high, *values) - min(low, *values))
        up = Axis(name, min(low, *values), max(high, max(values) + room))
        curves = [
            Curve(
                sorted((t.theta, getattr(t, name)) for t in trials if t.sigma == sigma),
                COLOURS[i % len(COLOURS)],
                f"sigma {sigma:g}",
                marks=True,
            )
            for i, sigma in enumerate(sigmas)
        ]
        chart = Chart(title, across, up, curves, places={"best": best(trials).theta})
        sheet.paste(chart.draw(640, 300), (0, 300 * n))
    return sheet
