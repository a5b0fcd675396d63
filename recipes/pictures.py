"""The CC0 photos that scikit-image bundles, which the embedded model is trained on too."""

import numpy as np
import torch
from torch import Tensor

PHOTOS = ("chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "camera", "brick", "grass", "gravel")
"""scikit-image's bundled photos whose licence is CC0 or public domain. `astronaut` is held out for validation."""


def photo(name: str) -> Tensor:
    """One of scikit-image's bundled photos, (3, H, W) in [0, 1]; grey ones are repeated."""
    import skimage.data

    array = np.atleast_3d(getattr(skimage.data, name)())
    return torch.from_numpy(np.repeat(array, 3 // array.shape[2], axis=2).copy()).permute(2, 0, 1).float() / 255
