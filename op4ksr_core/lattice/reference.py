"""What the small picture explains of a large one, and what was added to it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError
from .spectrum import activity, high_passed, luma255, reciprocal, strips

_TAPS = 5  # of the filter that takes the enlarged small picture to the large one, each axis
_RIDGE = 1e-3
_SAMPLES = 60_000  # px that the filter is fitted on
_THUMB = 64  # px, long side of the pictures that are compared to see whether they show the same
_ALIKE, _TURNED = 0.5, 0.7  # correlation of two pictures of the same thing; of one that was turned
_PLAIN = 1.0  # deviation in 1/255 below which a picture has nothing to compare
_OFF = 24.0  # 1/255: means of plain pictures that differ by more show different things
_SAME = 0.35  # deviation in 1/255 of the difference to a reference that is the picture itself
_SHARP = 0.4  # share of the picture's finest detail that an enlarged picture cannot have
_BUSY = 0.1  # how much the variance of the small picture counts beside that of what was added


@dataclass(frozen=True)
class Added:
    """What is not explained: residual and weight as of `spectrum.whitened`; explained: high-passed luma, 1/255.

    small: luma (h, w) of the small picture, or of the reference reduced to its true scale; enlarged: `small` at the
    picture's size (H, W). note: a sentence where the reference needs one. luma: of the whole picture (H, W).
    """

    residual: Tensor
    weight: Tensor
    explained: Tensor
    small: Tensor
    enlarged: Tensor
    note: str
    luma: Tensor


def added_to(luma: Tensor, reference_chw: Tensor) -> Added | None:
    """Luma (H, W) in 1/255 and the picture it was enlarged from, (1, 3 or 4, h, w) in [0, 1] -> what was added.

    The enlarged reference goes through the linear filter of 5x5 taps, half a small px apart, that explains most; so a
    shift by parts of a px, a blur or a sharpening are explained too. None where the reference is the picture itself.
    Raises ImageError where the reference is larger, has another aspect, is turned, or shows something else.
    """
    small = _luma_of(reference_chw)
    scale = _scale_of(luma, small)
    _check_content(luma, small)
    enlarged = enlarge(small, luma.shape)
    residual, explained_by = high_passed(luma), high_passed(enlarged)
    note = ""
    if scale == 1:
        if float((luma - enlarged).std()) < _SAME:
            return None
        note = _sharpness_note(luma, enlarged)
        small = reduced(enlarged, 4)
    before = activity(explained_by)
    weight = reciprocal(activity(residual))
    explained = _filtered(residual, explained_by, weight, max(1, round(scale / 2)))
    residual = residual - explained
    if scale == 1:
        enlarged = enlarge(small, luma.shape)
    weight = reciprocal(activity(residual).add_(before, alpha=_BUSY))
    return Added(residual, weight, explained, small, enlarged, note, luma)


def enlarge(small: Tensor, shape: torch.Size) -> Tensor:
    """(h, w) -> (H, W), bicubic."""
    if small.shape == shape:
        return small
    return F.interpolate(small[None, None], size=tuple(shape), mode="bicubic", align_corners=False)[0, 0]


def reduced(y: Tensor, factor: int) -> Tensor:
    """(H, W) -> means of factor x factor px; at least one px."""
    height, width = (max(1, side // factor) for side in y.shape)
    return _thumb(y, (height, width))


def _luma_of(reference_chw: Tensor) -> Tensor:
    try:
        return luma255(reference_chw)
    except ImageError as error:
        raise ImageError(f"The reference cannot be used: {error}") from error


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]} px"


def _scale_of(luma: Tensor, small: Tensor) -> float:
    """How many times larger the picture is. Raises ImageError on a larger reference, a tiny one, or another aspect."""
    if min(small.shape) < 4:
        raise ImageError(f"The reference is {_size(small)}: it needs 4 px a side to be compared with the picture.")
    down, across = (large / side for large, side in zip(luma.shape, small.shape, strict=True))
    if min(down, across) < 1:
        raise ImageError(
            f"The reference is {_size(small)}, larger than the picture's {_size(luma)}: give the small picture that it "
            "was enlarged from, or reduce the reference first."
        )
    if abs(down / across - 1) > 0.005 + 1.5 / min(small.shape):
        raise ImageError(
            f"The reference is {_size(small)}, the picture {_size(luma)}: their aspects differ. Give the picture that "
            "was enlarged, cut as it was for enlarging."
        )
    return math.sqrt(down * across)


def _thumb(y: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.adaptive_avg_pool2d(y[None, None], shape)[0, 0]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt().clamp_min(1e-9))


def _check_content(luma: Tensor, small: Tensor) -> None:
    """Raises ImageError where the two do not show the same thing the same way up."""
    fit = min(1.0, _THUMB / max(small.shape))
    height, width = (max(1, round(side * fit)) for side in small.shape)
    a, b = (_thumb(x, (height, width)) for x in (luma, small))
    fine = [x - F.avg_pool2d(F.pad(x[None, None], (4,) * 4, mode="replicate"), 9, 1)[0, 0] for x in (a, b)]
    pair = fine if min(float(x.std()) for x in fine) > _PLAIN else [a, b]
    if min(float(x.std()) for x in pair) < _PLAIN:
        _check_plain(a, b)
        return
    likeness = _correlation(*pair)
    if likeness >= _ALIKE:
        return
    turns = {"upside down": (0, 1), "mirrored left to right": (1,), "mirrored top to bottom": (0,)}
    for name, axes in turns.items():
        if _correlation(pair[0], pair[1].flip(axes)) > max(_TURNED, likeness):
            raise ImageError(f"The reference is the picture {name}: turn it as the picture is.")
    raise ImageError(
        f"The reference shows something else than the picture (likeness {likeness:.2f} of 1; at least {_ALIKE:g} is "
        "needed): give the picture that was enlarged."
    )


def _check_plain(a: Tensor, b: Tensor) -> None:
    off = float((a.mean() - b.mean()).abs())
    deviations = [float(x.std()) for x in (a, b)]
    if off > _OFF or max(deviations) > 6 * _PLAIN:
        raise ImageError(
            f"The reference shows something else than the picture: their means are {off:.0f}/255 apart, and they vary "
            f"by {deviations[1]:.1f} and {deviations[0]:.1f}/255. Give the picture that was enlarged."
        )


def _sharpness_note(luma: Tensor, reference: Tensor) -> str:
    """What to say of a reference of the picture's own size: nothing where it is plainly an enlargement."""

    def fine(y: Tensor) -> float:
        return float((y[1:-1, 1:-1] - F.avg_pool2d(y[None, None], 3, 1)[0, 0]).square().mean().sqrt())

    if fine(reference) < _SHARP * max(fine(luma), 0.5):
        return ""
    return (
        "The reference is as large and nearly as sharp as the picture: what it holds itself, a lattice too, counts as "
        "explained."
    )


def _filtered(target: Tensor, source: Tensor, weight: Tensor, spacing: int) -> Tensor:
    """`source` through the filter of 5x5 taps, `spacing` px apart, that is nearest to `target` by weighted squares."""
    half = _TAPS // 2 * spacing
    half = min(half, min(source.shape) - 1)
    spacing = max(1, half // (_TAPS // 2))
    half = _TAPS // 2 * spacing
    padded = F.pad(source[None, None], (half,) * 4, mode="replicate")[0, 0]
    height, width = target.shape
    places = [(i * spacing, j * spacing) for i in range(_TAPS) for j in range(_TAPS)]
    step = max(1, math.isqrt(target.numel() // _SAMPLES))

    def samples(x: Tensor) -> Tensor:
        return x[::step, ::step].reshape(-1)

    rows = torch.stack([samples(padded[i : i + height, j : j + width]) for i, j in places]).double()
    by = samples(weight).double()
    gram = (rows * by) @ rows.mT
    gram = gram + torch.eye(len(places)).double() * (_RIDGE * gram.diagonal().mean() + 1e-6)
    taps = torch.linalg.solve(gram, (rows * by) @ samples(target).double()).tolist()
    out = torch.empty_like(source)
    for _, _, write in strips(height, 0):  # a convolution by torch would hold a copy of the picture for each tap
        out[write] = sum(
            tap * padded[i + write.start : i + write.stop, j : j + width]
            for tap, (i, j) in zip(taps, places, strict=True)
        )
    return out
