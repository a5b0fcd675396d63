"""Latents as pictures and numbers: principal components as colours, and the bias of the four places in a token.

FLUX packs 2x2 latent px into one token. A transformer that cannot tell the four apart leaves a pattern of two latent
px, 32 picture px behind F16 (intra-token ambiguity, OP4KSR, arXiv 2605.13457, figure 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import ImageError
from ..picture.charts import INK, font
from ..picture.convert import as_picture, as_tensor

_SIDE, _GAP, _DETAIL = 400, 24, 40
_NAMES = ("top left", "top right", "bottom left", "bottom right")
_CERTAIN, _MATTERS = 4.0, 0.01  # standard errors, and share of the deviation, from which a bias is called one


@dataclass(frozen=True)
class PhaseBias:
    """How the four places (phases) of all tokens differ on average.

    means: (C, 4) weighted mean of each place less its token's mean, in latent units, order top left, top right,
    bottom left, bottom right. relative: root mean square of `means` over the latent's standard deviation. errors: root
    mean square of `means` in standard errors, about 1 where there is no bias.
    """

    means: Tensor
    relative: float
    errors: float

    @property
    def by_place(self) -> list[float]:
        """Root mean square over the channels of each place's mean."""
        return self.means.square().mean(0).sqrt().tolist()

    def as_dict(self) -> dict:
        """The numbers, for JSON."""
        return {
            "relative": self.relative,
            "standard_errors": self.errors,
            "by_place": dict(zip(_NAMES, self.by_place, strict=True)),
            "means": self.means.tolist(),
        }


def check_latent(z: Tensor) -> Tensor:
    """Returns the first latent (C, H, W) of a batch, float32. Raises ImageError on an odd, small or non-finite one."""
    if z.ndim != 4 or not len(z) or min(z.shape[-2:]) < 4 or z.shape[1] < 3 or any(side % 2 for side in z.shape[-2:]):
        raise ImageError(
            f"A latent to look at is (batch, 3 or more channels, even height, even width of 4 or more), got "
            f"{list(z.shape)}."
        )
    if not bool(z.isfinite().all()):
        raise ImageError("The latent has NaN or infinite values; find the node that made them.")
    return z[0].float().cpu()


def phase_bias(z_chw: Tensor) -> PhaseBias:
    """The bias of the four places of one latent (C, 2h, 2w); tokens of flat areas weigh most, as in the inspector."""
    places = rearrange(z_chw, "c (h ph) (w pw) -> c (h w) (ph pw)", ph=2, pw=2)
    off = places - places.mean(-1, keepdim=True)
    busy = off.square().mean((0, 2))
    weight = 1 / (busy + busy.median().clamp_min(1e-12))
    weight = (weight / weight.sum())[:, None]
    means = (weight * off).sum(1)
    error = (weight * (off - means[:, None])).square().sum(1).sqrt()
    return PhaseBias(
        means,
        float(means.square().mean().sqrt() / z_chw.std().clamp_min(1e-9)),
        float((means / error.clamp_min(1e-12)).square().mean().sqrt()),
    )


def principal_colours(latents: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """Each (C, H, W) as (3, H, W) in [0, 1] by the first three principal components, and their share of the variance.

    The components and the range, 1st to 99th percentile, are of all the latents together: equal colours mean equal
    values. Signs are chosen so that each component's largest weight is positive.
    """
    rows = torch.cat([z.flatten(1) for z in latents], 1)
    centred = rows - rows.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centred @ centred.T / centred.shape[1])
    axes = vectors[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    scores = axes.T @ centred
    step = max(1, scores.shape[1] // 100_000)
    low, high = (torch.quantile(scores[:, ::step], q, dim=1, keepdim=True) for q in (0.01, 0.99))
    colours = ((scores - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    sizes = [z.shape[-2] * z.shape[-1] for z in latents]
    parts = [part.reshape(3, *z.shape[-2:]) for part, z in zip(colours.split(sizes, 1), latents, strict=True)]
    return parts, float(values[-3:].sum() / values.sum().clamp_min(1e-12))


def draw_latents(latents: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """The view (3, H, W) in [0, 1] of latents (C, h, w): whole, a detail with the tokens' grid, bias per channel."""
    colours, share = principal_colours(latents)
    tall = max(round(_SIDE * z.shape[-2] / max(z.shape[-2:])) for z in latents)
    width = 2 * _SIDE + 3 * _GAP + 360
    sheet = Image.new("RGB", (width, 34 + len(latents) * (tall + 52)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), f"Three principal components, {share:.0%} of the variance", fill=INK, font=font(15))
    for n, (z, rgb, name) in enumerate(zip(latents, colours, names, strict=True)):
        y = 34 + n * (tall + 52)
        bias = phase_bias(z)
        draw.text((_GAP, y), f"{name}, {z.shape[-1]}x{z.shape[-2]}", fill=INK, font=font(14))
        sheet.paste(_enlarged(rgb, _SIDE), (_GAP, y + 20))
        side = min(_DETAIL, *rgb.shape[-2:]) // 2 * 2
        top, left = ((length - side) // 4 * 2 for length in rgb.shape[-2:])
        detail = _gridded(rgb[:, top : top + side, left : left + side], min(_SIDE, tall))
        draw.text((_SIDE + 2 * _GAP, y), f"middle {side}x{side}, lines: tokens", fill=INK, font=font(14))
        sheet.paste(detail, (_SIDE + 2 * _GAP, y + 20))
        _draw_bias(draw, (2 * _SIDE + 3 * _GAP, y), bias, float(z.std()))
    return as_tensor(sheet)


def _enlarged(rgb: Tensor, side: int) -> Image.Image:
    picture = as_picture(rgb)
    scale = side / max(picture.size)
    size = [max(1, round(length * scale)) for length in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _gridded(rgb: Tensor, side: int) -> Image.Image:
    picture = _enlarged(rgb, side)
    draw, token = ImageDraw.Draw(picture), 2 * picture.width / rgb.shape[-1]
    for n in range(rgb.shape[-1] // 2 + 1):
        for line in ([(n * token, 0), (n * token, picture.height)], [(0, n * token), (picture.width, n * token)]):
            draw.line(line, fill="#000", width=1)
    return picture


def _draw_bias(draw: ImageDraw.ImageDraw, place: tuple[int, int], bias: PhaseBias, spread: float) -> None:
    """Channels down, places across: blue below the token's mean, red above, full at a tenth of the deviation."""
    x, y = place
    draw.text((x, y), "mean of each place less its token's", fill=INK, font=font(14))
    cell = min(18, 288 // len(bias.means))
    for channel, row in enumerate(bias.means):
        for n, value in enumerate(row.tolist()):
            share = max(-1.0, min(1.0, value / max(0.1 * spread, 1e-9)))
            pale = round(255 * (1 - abs(share)))
            colour = (255, pale, pale) if share > 0 else (pale, pale, 255)
            corner = (x + n * 60, y + 20 + channel * cell)
            draw.rectangle([*corner, corner[0] + 58, corner[1] + cell - 2], fill=colour, outline="#ddd")
    below = y + 24 + len(bias.means) * cell
    for n, name in enumerate(_NAMES):
        draw.multiline_text((x + n * 60, below), name.replace(" ", "\n"), fill=INK, font=font(11))
    words = (
        f"rows: channels; full at a tenth of the deviation\nbias {bias.relative:.3f}, {bias.errors:.1f} standard errors"
    )
    draw.multiline_text((x, below + 32), words, fill=INK, font=font(12))


def sentences(latents: Sequence[Tensor], names: Sequence[str]) -> list[str]:
    """The bias of each latent in plain sentences."""
    lines = []
    for z, name in zip(latents, names, strict=True):
        bias = phase_bias(z)
        places = ", ".join(f"{place} {value:.4f}" for place, value in zip(_NAMES, bias.by_place, strict=True))
        biased = bias.errors > _CERTAIN and bias.relative > _MATTERS
        lines.append(
            f"{name}: the four places of a token differ by {bias.relative:.4f} of the latent's deviation "
            f"({bias.errors:.1f} standard errors): {'a bias' if biased else 'no bias to speak of'}. By place: {places}."
        )
    return lines
