"""RoPE analysis as a picture: phase steps against 5 degrees, and which tokens look like the one in the middle."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..picture.charts import COLOURS, INK, Axis, Chart, Curve, font
from ..picture.convert import as_tensor
from .rope_phases import ALIKE, EFFECTIVE_DEGREES, RopeAnalysis

_SIDE, _GAP, _WIDTH = 240, 24, 1080


def draw_analyses(analyses: Sequence[RopeAnalysis]) -> Tensor:
    """The report (3, H, 1080) in [0, 1]: curves and numbers above, one similarity map per setting below."""
    per_row = (_WIDTH - _GAP) // (_SIDE + _GAP)
    rows, columns = analyses[0].tokens
    tall = round(_SIDE * rows / max(rows, columns))
    sheet = Image.new("RGB", (_WIDTH, 480 + -(-len(analyses) // per_row) * (tall + 72)), "white")
    sheet.paste(_steps(analyses).draw(620, 430), (_GAP, 10))
    draw = ImageDraw.Draw(sheet)
    _table(draw, analyses)
    for n, one in enumerate(analyses):
        x, y = _GAP + n % per_row * (_SIDE + _GAP), 470 + n // per_row * (tall + 72)
        draw.text((x, y), name_of(one), fill=COLOURS[n % len(COLOURS)], font=font(15))
        sheet.paste(_map(one.similarity["float32"]), (x, y + 22))
        draw.text((x, y + 26 + tall), f"red: above {ALIKE}, {one.area():.2%} of the tokens", fill=INK, font=font(12))
    return as_tensor(sheet)


def name_of(one: RopeAnalysis) -> str:
    """`theta 100, plain`."""
    return f"theta {one.settings.theta:g}, {one.settings.scheme}"


def _steps(analyses: Sequence[RopeAnalysis]) -> Chart:
    """Figure 5a: degrees per token of every pair across the picture."""
    lowest = min(float(one.steps[1].min()) for one in analyses)
    curves = [
        Curve([(pair, float(step)) for pair, step in enumerate(one.steps[1])], COLOURS[n % len(COLOURS)])
        for n, one in enumerate(analyses)
    ]
    pairs = analyses[0].steps.shape[1]
    return Chart(
        "Phase step per token, across",
        Axis("pair", 0, max(1, pairs - 1), ticks=range(0, pairs, 4)),
        Axis("degrees", min(1.0, lowest), 100, logarithmic=True),
        curves,
        {f"{EFFECTIVE_DEGREES:g} degrees": EFFECTIVE_DEGREES},
    )


def _table(draw: ImageDraw.ImageDraw, analyses: Sequence[RopeAnalysis]) -> None:
    left, first = _GAP + 620 + 16, analyses[0]
    columns = [left, left + 64, left + 144, left + 212, left + 280, left + 344]
    head = ("theta", "pairs over\n5 degrees", f"area\nover {ALIKE}", "same in\nbfloat16", "mean", "still in\nbfloat16")
    title = f"{first.size} px, {first.tokens[1]}x{first.tokens[0]} tokens of {first.token_px} px"
    draw.text((left, 16), title, fill=INK, font=font(15))
    for x, words in zip(columns, head, strict=True):
        draw.multiline_text((x, 50), words, fill=INK, font=font(12))
    for n, one in enumerate(analyses):
        pairs = one.steps.shape[1]
        cells = (
            f"{one.settings.theta:g}",
            f"{_both(one.effective)} of {pairs}",
            f"{one.area():.2%}",
            f"{one.area('bfloat16'):.2%}",
            f"{one.mean:.2f}",
            f"{_both(one.standing())} of {pairs}",
        )
        for x, cell in zip(columns, cells, strict=True):
            draw.text((x, 90 + 22 * n), cell, fill=COLOURS[n % len(COLOURS)], font=font(13))


def _both(counts: tuple[int, int]) -> str:
    """H and W, once where they are equal."""
    return str(counts[0]) if counts[0] == counts[1] else f"{counts[0]}, {counts[1]}"


def _map(similarity: Tensor) -> Image.Image:
    """Figure 5b: dark blue for the least alike to white for the same; above 0.9 in red."""
    low = min(0.0, float(similarity.min()))
    share = ((similarity - low) / (1 - low)).clamp(0, 1)[..., None].numpy()
    blue, white = np.array([20, 40, 90.0]), np.array([245, 245, 250.0])
    pixels = blue + (white - blue) * share
    pixels[similarity.numpy() > ALIKE] = (192, 40, 45)
    picture = Image.fromarray(pixels.astype(np.uint8))
    scale = _SIDE / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.NEAREST)
