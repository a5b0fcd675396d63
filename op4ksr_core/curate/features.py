"""Stage 1: what can be measured on a picture without a model. Luma in 0 to 255, at native resolution."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from ..picture.convert import as_picture
from ..picture.luma import FULL_RANGE
from ..picture.read import read_picture

GATES = {"laplacian": 1.0, "sobel": 1.0}
"""Scores of stage 1 that only eliminate: blurred pictures and flat ones."""

RANKED = {"contrast": 1.0, "correlation": -1.0, "entropy": 1.0}
"""Scores of stage 1 that pictures are ranked by, and which way is better. The paper does not say which way GLCM
correlation counts; we take smooth pictures, whose neighbours agree, for the poorer ones."""

SCORES = GATES | RANKED

_GREYS = 64
"""Grey levels of the co-occurrence matrix."""


def measure(path: Path) -> dict[str, Any]:
    """Size, hashes and SCORES of one picture. Raises ImageError.

    laplacian: variance of the Laplacian. sobel: mean gradient magnitude. contrast, correlation: of the grey-level
    co-occurrence matrix (Haralick 1973; 64 levels, neighbours to the right and below). entropy: Shannon's, of the
    histogram, in bits. phash: 64-bit perceptual hash.
    """
    import imagehash

    image = as_picture(read_picture(path).rgb[0])
    luma = np.asarray(image) @ np.array(FULL_RANGE)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}.") from error
    return {
        "width": image.width,
        "height": image.height,
        "sha256": digest,
        "phash": str(imagehash.phash(image)),
    } | _scores(luma)


def _scores(luma: np.ndarray) -> dict[str, float]:
    from skimage.feature import graycomatrix, graycoprops
    from skimage.filters import laplace, sobel
    from skimage.measure import shannon_entropy

    greys = np.clip(luma * _GREYS / 256, 0, _GREYS - 1).astype(np.uint8)
    if min(luma.shape) < 2:
        matrix = np.zeros((_GREYS, _GREYS, 1, 1))
        matrix[greys[0, 0], greys[0, 0]] = 1
    else:
        matrix = graycomatrix(greys, [1], [0, np.pi / 2], _GREYS, symmetric=True, normed=True)
    return {
        "laplacian": float(laplace(luma).var()),
        "sobel": float(sobel(luma).mean()),
        "contrast": float(graycoprops(matrix, "contrast").mean()),
        "correlation": float(graycoprops(matrix, "correlation").mean()),
        "entropy": float(shannon_entropy(luma.round().astype(np.uint8))),
    }
