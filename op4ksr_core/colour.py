"""Colour fixes and fidelity: what of the low-resolution (LR) picture the result must keep."""

import math

import torch
from einops import rearrange
from torch import Tensor

from .errors import SettingError
from .geometry import Size
from .resample import crop, resize

FIXES = ("none", "wavelet", "adain")

_WAVELET_LEVELS = 5
_PROJECTIONS = 6
_EDGE = 16


def finish(raw_bchw: Tensor, lr_bchw: Tensor, target: Size, fix: str, fidelity: float) -> Tensor:
    """From the decoder's padded output to the picture that is shown: crop, colour fix, fidelity, clamp to [0, 1].

    Fidelity also fades the model's own drawing out over the outermost 16 px, in favour of the
    enlarged LR picture: there the convolutions' zero padding misleads a small decoder.
    """
    image = crop(raw_bchw, target).to(torch.float32, memory_format=torch.contiguous_format)
    reference = resize(lr_bchw, target)
    image = fix_colour(image, reference, fix)
    if fidelity > 0:
        image = image + fidelity * _edge_weight(image) * (reference - image)
    return back_project(image, lr_bchw, fidelity).clamp_(0, 1)


def _edge_weight(image_bchw: Tensor) -> Tensor:
    """(H, W): 1 on the outermost pixel, falling as a squared cosine to 0 at _EDGE px inside."""
    rows, columns = (
        torch.arange(side, device=image_bchw.device).minimum(torch.arange(side - 1, -1, -1, device=image_bchw.device))
        for side in image_bchw.shape[-2:]
    )
    inside = [torch.sin(math.pi / 2 * (line / _EDGE).clamp(max=1)) ** 2 for line in (rows, columns)]
    return 1 - inside[0][:, None] * inside[1]


def fix_colour(image_bchw: Tensor, reference_bchw: Tensor, fix: str) -> Tensor:
    """Gives `image` the colours of `reference` (equal shape) by the named fix, one of FIXES."""
    if fix not in FIXES:
        raise SettingError(f"Colour fix must be one of {', '.join(FIXES)}, got {fix!r}.")
    if fix == "wavelet":
        return wavelet_fix(image_bchw, reference_bchw)
    return adain_fix(image_bchw, reference_bchw) if fix == "adain" else image_bchw


def wavelet_fix(image_bchw: Tensor, reference_bchw: Tensor) -> Tensor:
    """High bands of the image plus low band of the reference (StableSR, arXiv 2305.07015).

    The low band is five a-trous levels of [1, 2, 1] x [1, 2, 1] / 16, dilations 1..16 px.
    """
    return image_bchw + low_band(reference_bchw - image_bchw)


def low_band(x_bchw: Tensor) -> Tensor:
    """Five a-trous smoothing levels, borders replicated; linear, so low(a) - low(b) = low(a - b)."""
    for level in range(_WAVELET_LEVELS):
        x_bchw = _smooth(_smooth(x_bchw, 2**level, -1), 2**level, -2)
    return x_bchw


def _smooth(x: Tensor, step: int, axis: int) -> Tensor:
    """[1, 2, 1]/4 with taps `step` apart along `axis`, the border pixel repeated."""
    length = x.shape[axis]
    index = torch.arange(length, device=x.device)
    before = x.index_select(axis, (index - step).clamp(min=0))
    after = x.index_select(axis, (index + step).clamp(max=length - 1))
    return before.add_(after).mul_(0.25).add_(x, alpha=0.5)


def adain_fix(image_bchw: Tensor, reference_bchw: Tensor) -> Tensor:
    """Per-channel mean and standard deviation of the reference on the image (AdaIN, arXiv 1703.06868)."""
    mean, std = _moments(image_bchw)
    reference_mean, reference_std = _moments(reference_bchw)
    return (image_bchw - mean) * (reference_std / std.clamp(min=1e-5)) + reference_mean


def _moments(x_bchw: Tensor) -> tuple[Tensor, Tensor]:
    flat = rearrange(x_bchw.float(), "b c h w -> b c (h w)")
    mean, std = flat.mean(-1), flat.std(-1, correction=0)
    return mean[..., None, None], std[..., None, None]


def back_project(image_bchw: Tensor, lr_bchw: Tensor, fidelity: float) -> Tensor:
    """Fidelity by iterated back-projection (Irani & Peleg 1991): image + w * up(LR - down(image)).

    image (B, C, H, W) and lr (B, C, h, w) in [0, 1]; fidelity w in [0, 1]. At w = 1 six passes
    make the result, brought down again by antialiased bicubic, equal the LR picture (on a photo to
    within 1/255, clamping aside), so that the LR's own band is kept and the model adds what it lacks.
    At w = 0 the image is returned as it is. Raises SettingError outside [0, 1].
    """
    if not 0 <= fidelity <= 1:
        raise SettingError(f"Fidelity must lie in [0, 1], got {fidelity}.")
    if fidelity == 0:
        return image_bchw
    target, source = (Size(*t.shape[-2:]) for t in (image_bchw, lr_bchw))
    correction = torch.zeros_like(lr_bchw)
    residual = lr_bchw - resize(image_bchw, source)
    for _ in range(_PROJECTIONS):
        correction = correction + residual
        residual = residual - resize(resize(residual, target), source)
    return image_bchw + fidelity * resize(correction, target)
