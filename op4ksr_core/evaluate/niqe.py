"""NIQE (Mittal, Soundararajan and Bovik 2013): how far a picture's statistics are from those of pristine photographs.

The pristine model is the authors' (`assets/niqe.npz`, see `assets/NOTICE`), as BasicSR publishes it.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import NotMeasurable
from ..paths import ASSETS
from ..picture.convert import as_picture
from ..picture.luma import FULL_RANGE, LIMITED_RANGE

BLOCK = 96
"""px of a block, whose 36 features are one sample."""

_LEAST_BLOCKS = 3
_SHAPES = np.arange(0.2, 10.001, 0.001)
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(picture: Tensor) -> float:
    """NIQE of a picture (1, 3, H, W) in [0, 1], on rounded BT.601 luma in 16 to 235, as MATLAB's and BasicSR's, without
    a border; lower is better.

    Raises NotMeasurable where the picture holds fewer than three blocks of 96 px with anything in them.
    """
    return _niqe(picture, LIMITED_RANGE, 16)


def niqe_pyiqa(picture: Tensor) -> float:
    """The same on luma in 0 to 255, as pyiqa has it, with which the tables of OSEDiff and the others were made.

    Raises NotMeasurable where the picture holds fewer than three blocks of 96 px with anything in them.
    """
    return _niqe(picture, tuple(255 * share for share in FULL_RANGE), 0)


def _niqe(picture: Tensor, weights: tuple[float, ...], black: float) -> float:
    """On the luma that has `black` for black and grows by `weights` for each of red, green and blue."""
    height, width = picture.shape[-2:]
    if (height // BLOCK) * (width // BLOCK) < _LEAST_BLOCKS:
        raise NotMeasurable(f"NIQE needs three blocks of {BLOCK} px; this picture is {width}x{height} px.")
    window, mean, covariance = _pristine()
    luma = _luma(picture, weights, black)
    samples = np.concatenate([_features(luma, window, BLOCK), _features(_halved(luma), window, BLOCK // 2)], 1)
    samples = samples[np.isfinite(samples).all(1)]
    if len(samples) < _LEAST_BLOCKS:
        raise NotMeasurable(
            f"the picture is flat: NIQE needs three blocks of {BLOCK} px with texture, and {len(samples)} of the "
            f"{(height // BLOCK) * (width // BLOCK)} in its {width}x{height} px have any."
        )
    difference = mean - samples.mean(0)
    pooled = np.linalg.pinv((covariance + np.cov(samples, rowvar=False)) / 2)
    return float(np.sqrt(difference @ pooled @ difference))


@cache
def _pristine() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(7x7 window, mean (36,), covariance (36, 36)) of pristine photographs."""
    with np.load(ASSETS / "niqe.npz") as file:
        return file["gaussian_window"], file["mu_pris_param"].ravel(), file["cov_pris_param"]


def _luma(picture: Tensor, weights: tuple[float, ...], black: float) -> np.ndarray:
    """Rounded Y, cut to whole blocks."""
    rgb = np.asarray(as_picture(picture[0]), np.float64)
    y = np.round(rgb @ weights / 255 + black)
    height, width = (side // BLOCK * BLOCK for side in y.shape)
    return y[:height, :width]


def _halved(y: np.ndarray) -> np.ndarray:
    from PIL import Image

    small = Image.fromarray((y / 255).astype(np.float32)).resize(
        (y.shape[1] // 2, y.shape[0] // 2), Image.Resampling.BICUBIC
    )
    return np.asarray(small, np.float64) * 255


def _features(y: np.ndarray, window: np.ndarray, block: int) -> np.ndarray:
    """(blocks, 18): shape and spread of the normalised luma, and of its products with four neighbours."""
    kernel = torch.from_numpy(window)[None, None]

    def smoothed(x: np.ndarray) -> np.ndarray:
        padded = F.pad(torch.from_numpy(x)[None, None], (3, 3, 3, 3), mode="replicate")
        return F.conv2d(padded, kernel)[0, 0].numpy()

    local = smoothed(y)
    spread = np.sqrt(np.abs(smoothed(y * y) - local * local))
    normal = (y - local) / (spread + 1)
    rows = []
    for top in range(0, y.shape[0], block):
        rows += [
            _block_features(normal[top : top + block, left : left + block]) for left in range(0, y.shape[1], block)
        ]
    return np.array(rows)


def _block_features(x: np.ndarray) -> list[float]:
    from scipy.special import gamma

    shape, left, right = _asymmetric_gaussian(x)
    found = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right = _asymmetric_gaussian(x * np.roll(x, shift, (0, 1)))
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
        found += [shape, mean, left, right]
    return found


def _asymmetric_gaussian(x: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right spread of the asymmetric generalised Gaussian of equal moments; NaN on a flat block."""
    from scipy.special import gamma

    negative, positive = x[x < 0], x[x > 0]
    if not len(negative) or not len(positive):
        return float("nan"), float("nan"), float("nan")
    left, right = np.sqrt(np.mean(negative**2)), np.sqrt(np.mean(positive**2))
    ratio = left / right
    moments = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = float(_SHAPES[np.argmin((_ratios() - wanted) ** 2)])
    factor = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, float(left * factor), float(right * factor)


@cache
def _ratios() -> np.ndarray:
    """E[|x|]^2 / E[x^2] of a generalised Gaussian of each shape."""
    from scipy.special import gamma

    return gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
