"""Colour fixes and fidelity: what of the low-resolution (LR) picture the result must keep."""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Size
from ..settings import COLOUR_FIXES, check_choice, check_range
from .lab import lab_fix
from .resample import crop, down_up_band, resize

_QUARTER, _QUARTER_STEPS = 4, (1, 2, 4)
_PROJECTIONS = 6
_EDGE = 16
_STRIP_ROWS = 128

ROUNDS = 2
"""Times that the low band is given back and the range limited again: after one, line art is 1.6/255 too bright on
average, after two 0.6."""


def finish(raw_bchw: Tensor, lr_bchw: Tensor, target: Size, fix: str, fidelity: float) -> Tensor:
    """From the decoder's padded output to the picture that is shown: crop, colour fix, fidelity, clamp to [0, 1].

    Fidelity (wholly from 0.5) also fades the model's own drawing out over the outermost 16 px, in favour of the
    enlarged LR picture: there the convolutions' zero padding misleads a small decoder. And (wholly from 0.25) it keeps
    the image from ringing beside edges (`limit_overshoot`).
    """
    image = crop(raw_bchw, target).to(torch.float32, memory_format=torch.contiguous_format)
    reference = resize(lr_bchw, target)
    image = fix_colour(image, reference, fix)
    if fidelity > 0:
        image = fade_edges(image, reference, min(1.0, 2 * fidelity))
    image = back_project(image, lr_bchw, fidelity).clamp_(0, 1)
    if fidelity == 0:
        return image
    if fix != "wavelet":
        return _limited(image, lr_bchw, 4 * fidelity)
    for _ in range(ROUNDS):
        # Clamping takes more from one side of the low band than from the other, near white above all.
        image = wavelet_fix(image, reference.clamp(0, 1)).clamp_(0, 1)
        image = _limited(image, lr_bchw, 4 * fidelity)
    return image


def _limited(image_bchw: Tensor, lr_bchw: Tensor, share: float) -> Tensor:
    """The image drawn towards what `limit_overshoot` makes of it; from a share of 1 on in place."""
    if share >= 1:
        return limit_overshoot(image_bchw, lr_bchw)
    return image_bchw.lerp(limit_overshoot(image_bchw.clone(), lr_bchw), share)


def fade_edges(image_bchw: Tensor, reference_bchw: Tensor, share: float) -> Tensor:
    """The image with its outermost px drawn towards the reference (equal shape) by up to `share`."""
    weight, out = share * _edge_weight(image_bchw), image_bchw.clone()
    edges, whole = (slice(None, _EDGE), slice(-_EDGE, None)), slice(None)
    inner = slice(_EDGE, max(_EDGE, image_bchw.shape[-2] - _EDGE))
    rows = edges if image_bchw.shape[-2] > 2 * _EDGE else (whole,)
    columns = edges if image_bchw.shape[-1] > 2 * _EDGE else (whole,)
    for part in [(row, whole) for row in rows] + [(inner, column) for column in columns]:
        at = (..., *part)
        out[at] = image_bchw[at] + weight[part] * (reference_bchw[at] - image_bchw[at])
    return out


def _edge_weight(image_bchw: Tensor) -> Tensor:
    """(H, W): 1 on the outermost pixel, falling as a squared cosine to 0 at _EDGE px inside."""
    rows, columns = (
        torch.arange(side, device=image_bchw.device).minimum(torch.arange(side - 1, -1, -1, device=image_bchw.device))
        for side in image_bchw.shape[-2:]
    )
    inside = [torch.sin(math.pi / 2 * (line / _EDGE).clamp(max=1)) ** 2 for line in (rows, columns)]
    return 1 - inside[0][:, None] * inside[1]


def fix_colour(image_bchw: Tensor, reference_bchw: Tensor, fix: str) -> Tensor:
    """Gives `image` the colours of `reference` (equal shape) by the named fix, one of COLOUR_FIXES."""
    check_choice("Colour fix", fix, COLOUR_FIXES)
    fixes = {"wavelet": wavelet_fix, "adain": adain_fix, "lab": lab_fix}
    return fixes[fix](image_bchw, reference_bchw) if fix in fixes else image_bchw


def wavelet_fix(image_bchw: Tensor, reference_bchw: Tensor) -> Tensor:
    """High bands of the image plus low band of the reference (StableSR, arXiv 2305.07015), both of one shape.

    The low band is that of `low_band`, taken of the difference: it is linear.
    """
    difference = _at_a_quarter(reference_bchw) - _at_a_quarter(image_bchw)
    return _enlarged_band(difference, image_bchw).add_(image_bchw)


def low_band(x_bchw: Tensor) -> Tensor:
    """What five a-trous levels of [1, 2, 1] x [1, 2, 1] / 16 leave, dilations 1..16 px. Borders are replicated.

    The levels of 1 and 2 px are a 4-px box and bilinear enlargement instead: the others run at a quarter of the side, a
    third of the time for the whole. The spread differs by half a per cent (variance 171.4 in place of 170.5 px²).
    """
    return _enlarged_band(_at_a_quarter(x_bchw), x_bchw)


def _at_a_quarter(x_bchw: Tensor) -> Tensor:
    """Means of 4x4 px; what is missing to whole ones is the border repeated."""
    missing = (0, -x_bchw.shape[-1] % _QUARTER, 0, -x_bchw.shape[-2] % _QUARTER)
    return F.avg_pool2d(F.pad(x_bchw, missing, mode="replicate") if any(missing) else x_bchw, _QUARTER)


def _enlarged_band(small: Tensor, like_bchw: Tensor) -> Tensor:
    """The levels of 4, 8 and 16 px at a quarter of the side, enlarged to the shape of `like`."""
    for step in _QUARTER_STEPS:
        small = _smooth(_smooth(small, step, -1), step, -2)
    whole = F.interpolate(small, scale_factor=_QUARTER, mode="bilinear")
    return crop(whole, Size(*like_bchw.shape[-2:]))


def _smooth(x: Tensor, step: int, axis: int) -> Tensor:
    """[1, 2, 1]/4 with taps `step` apart along `axis`, the border pixel repeated."""
    length = x.shape[axis]
    step = min(step, length)
    out = x * 0.5
    for target, source in (
        (slice(step, None), x.narrow(axis, 0, length - step)),
        (slice(0, step), x.narrow(axis, 0, 1)),
        (slice(0, length - step), x.narrow(axis, step, length - step)),
        (slice(length - step, None), x.narrow(axis, length - 1, 1)),
    ):
        (out[..., target] if axis == -1 else out[..., target, :]).add_(source, alpha=0.25)
    return out


def limit_overshoot(image_bchw: Tensor, lr_bchw: Tensor, given_bchw: Tensor | None = None) -> Tensor:
    """Clamps an image in place to the range of the LR picture in the 3x3 px around each px, as anti-ringing resamplers
    do, widened by three times as much on both sides and by a quarter of an 8-bit step; never further in than the
    `given` picture, of the image's shape.

    So lines beside an edge end after one px of the LR picture where that is flat, and what is flat stays flat; in
    texture the range is wider than anything that is drawn.
    """
    height, width = image_bchw.shape[-2:]
    if height < lr_bchw.shape[-2] or width < lr_bchw.shape[-1]:
        lr_bchw = resize(lr_bchw, Size(height, width))
    high, low = F.max_pool2d(lr_bchw, 3, 1, 1), -F.max_pool2d(-lr_bchw, 3, 1, 1)
    margin = 3 * (high - low) + 0.25 / 255
    least, most = low - margin, high + margin
    rows = torch.arange(height, device=image_bchw.device) * lr_bchw.shape[-2] // height
    for top in range(0, height, _STRIP_ROWS):
        part = (..., slice(top, top + _STRIP_ROWS), slice(None))
        bounds = [_repeated(bound[..., rows[part[1]], :], width) for bound in (least, most)]
        if given_bchw is not None:
            bounds = [torch.minimum(bounds[0], given_bchw[part]), torch.maximum(bounds[1], given_bchw[part])]
        image_bchw[part].clamp_(*bounds)
    return image_bchw


def _repeated(rows: Tensor, width: int) -> Tensor:
    """Rows (B, C, h, w) made `width` px wide by repeating px."""
    return F.interpolate(rows, size=(rows.shape[-2], width), mode="nearest")


def adain_fix(image_bchw: Tensor, reference_bchw: Tensor) -> Tensor:
    """Per-channel mean and standard deviation of the reference on the image (AdaIN, arXiv 1703.06868).

    As in the code of StableSR, which OSEDiff and OMGSR use: both are limited to [0, 1] first, and 1e-5 is added to the
    variances.
    """
    image_bchw, reference_bchw = image_bchw.clamp(0, 1), reference_bchw.clamp(0, 1)
    mean, std = _moments(image_bchw)
    reference_mean, reference_std = _moments(reference_bchw)
    return (image_bchw - mean) * (reference_std / std) + reference_mean


def _moments(x_bchw: Tensor) -> tuple[Tensor, Tensor]:
    flat = rearrange(x_bchw.float(), "b c h w -> b c (h w)")
    mean, std = flat.mean(-1), (flat.var(-1) + 1e-5).sqrt()
    return mean[..., None, None], std[..., None, None]


def back_project(image_bchw: Tensor, lr_bchw: Tensor, fidelity: float) -> Tensor:
    """Fidelity by iterated back-projection (Irani & Peleg 1991): image + w * up(LR - down(image)).

    image (B, C, H, W) and lr (B, C, h, w) in [0, 1]; fidelity w in [0, 1]. At w = 1 six passes
    make the result, brought down again by antialiased bicubic, equal the LR picture (on a photo to
    within 1/255, clamping aside), so that the LR's own band is kept and the model adds what it lacks.
    At w = 0 the image is returned as it is. Raises SettingError outside [0, 1].
    """
    check_range("Fidelity", fidelity, 0, 1)
    if fidelity == 0:
        return image_bchw
    target, source = (Size(*t.shape[-2:]) for t in (image_bchw, lr_bchw))
    correction = torch.zeros_like(lr_bchw)
    residual = lr_bchw - resize(image_bchw, source)
    for _ in range(_PROJECTIONS):
        correction = correction + residual
        residual = residual - down_up_band(residual, target)
    return image_bchw + fidelity * resize(correction, target)
