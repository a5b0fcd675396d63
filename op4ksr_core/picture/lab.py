"""CIELAB, and the colour fix that takes a reference's chroma under the picture's lightness."""

import torch
from torch import Tensor

_STRIP_ROWS = 128
_TO_XYZ = (
    (0.4123908, 0.3575843, 0.1804808),
    (0.2126390, 0.7151687, 0.0721923),
    (0.0193308, 0.1191948, 0.9505322),
)
"""Linear sRGB to XYZ, D65 (IEC 61966-2-1); its rows' sums are the white point."""

_BISECTIONS = 10
_BREAK = 6 / 29


def lab_fix(image_bchw: Tensor, reference_bchw: Tensor) -> Tensor:
    """The image's lightness with the reference's a and b (equal shape), both sRGB in [0, 1]; float32.

    Where sRGB cannot show that, the chroma is reduced until it can: the hue stays, where clipping the channels would
    turn blue into purple. Works in strips of rows.
    """
    image_bchw, reference_bchw = torch.broadcast_tensors(image_bchw, reference_bchw)
    out = torch.empty_like(image_bchw, memory_format=torch.contiguous_format)
    for top in range(0, image_bchw.shape[-2], _STRIP_ROWS):
        rows = (..., slice(top, top + _STRIP_ROWS), slice(None))
        lightness = to_lab(image_bchw[rows].clamp(0, 1))[:, :1]
        chroma = to_lab(reference_bchw[rows].clamp(0, 1))[:, 1:]
        out[rows] = shown(torch.cat([lightness, chroma], 1))
    return out


def to_lab(rgb_bchw: Tensor) -> Tensor:
    """sRGB in [0, 1] (B, 3, H, W) -> CIELAB, L in [0, 100], D65."""
    linear = torch.where(rgb_bchw <= 0.04045, rgb_bchw / 12.92, ((rgb_bchw + 0.055) / 1.055) ** 2.4)
    matrix = rgb_bchw.new_tensor(_TO_XYZ)
    x, y, z = torch.einsum("ij,bjhw->bihw", matrix / matrix.sum(1, keepdim=True), linear).unbind(1)
    fx, fy, fz = (_f(v) for v in (x, y, z))
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def from_lab(lab_bchw: Tensor) -> Tensor:
    """CIELAB -> sRGB, below 0 or above 1 where sRGB has no such colour."""
    lightness, a, b = lab_bchw.unbind(1)
    fy = (lightness + 16) / 116
    white = torch.stack([_back(fy + a / 500), _back(fy), _back(fy - b / 200)], 1)
    matrix = lab_bchw.new_tensor(_TO_XYZ)
    linear = torch.einsum("ij,bjhw->bihw", (matrix / matrix.sum(1, keepdim=True)).inverse(), white)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def shown(lab_bchw: Tensor) -> Tensor:
    """CIELAB -> sRGB in [0, 1]; colours outside it with as much of their chroma as it has, their hue and lightness."""
    rgb = from_lab(lab_bchw)
    outside = ((rgb < -1e-4) | (rgb > 1 + 1e-4)).any(1)
    if bool(outside.any()):
        lab = lab_bchw.movedim(1, -1)[outside].T[None, :, None]  # (1, 3, 1, N)
        low, high = lab.new_zeros(lab.shape[-1]), lab.new_ones(lab.shape[-1])
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            tried = from_lab(torch.cat([lab[:, :1], lab[:, 1:] * middle], 1))
            fits = ((tried >= -1e-4) & (tried <= 1 + 1e-4)).all(1)[0, 0]
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        found = from_lab(torch.cat([lab[:, :1], lab[:, 1:] * low], 1))
        rgb.movedim(1, -1)[outside] = found[0, :, 0].T
    return rgb.clamp(0, 1)


def _f(t: Tensor) -> Tensor:
    return torch.where(t > _BREAK**3, t.clamp(min=1e-9) ** (1 / 3), t / (3 * _BREAK**2) + 4 / 29)


def _back(t: Tensor) -> Tensor:
    return torch.where(t > _BREAK, t**3, 3 * _BREAK**2 * (t - 4 / 29))
