"""The embedded model's training pictures: scenes and the CC0 photos that scikit-image bundles."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from op4ksr_core.geometry import Size
from op4ksr_core.picture.resample import resize
from recipes.scenes import render

PHOTOS = ("chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "camera", "brick", "grass", "gravel")
"""scikit-image's bundled photos whose licence is CC0 or public domain. `astronaut` is held out for validation."""

HELD_OUT = "astronaut"


def photo(name: str) -> Tensor:
    """One of scikit-image's bundled photos, (3, H, W) in [0, 1]; grey ones are repeated."""
    import skimage.data

    array = np.atleast_3d(getattr(skimage.data, name)())
    return torch.from_numpy(np.repeat(array, 3 // array.shape[2], axis=2).copy()).permute(2, 0, 1).float() / 255


@dataclass
class PicturePool:
    """Uniform 8-bit pictures on one device, from which a step draws its crops."""

    scenes: Tensor
    photos: list[Tensor]

    @classmethod
    def make(cls, count: int, size: int, device: torch.device | str = "cpu", seed: int = 0) -> "PicturePool":
        """Renders `count` scenes of `size` px and loads the photos."""
        first = seed * 1_000_003
        scenes = torch.stack([to_bytes(render(size, first + i, device)) for i in range(count)])
        return cls(scenes, [to_bytes(photo(name).to(device)) for name in PHOTOS])

    def crops(self, count: int, side: int, seed: int, photo_share: float = 0.5) -> Tensor:
        """(count, 3, side, side) in [0, 1]: random crops, flips, turns, channel orders and gammas."""
        rng = random.Random(seed)
        return torch.stack([self._crop(rng, side, rng.random() < photo_share) for _ in range(count)])

    def _crop(self, rng: random.Random, side: int, from_photo: bool) -> Tensor:
        source = rng.choice(self.photos) if from_photo else self.scenes[rng.randrange(len(self.scenes))]
        zoom = rng.choice((1.0, 1.0, 1.5, 2.0)) if from_photo else 1.0
        zoom = min(zoom, min(source.shape[-2:]) / side)
        span = int(side * zoom)
        top, left = (rng.randint(0, length - span) for length in source.shape[-2:])
        x = resize(source[None, :, top : top + span, left : left + span].float() / 255, Size(side, side))[0]
        return _vary(rng, x.clamp(0, 1))


def _vary(rng: random.Random, x: Tensor) -> Tensor:
    """A random turn, flip, channel order and gamma."""
    x = torch.rot90(x, rng.randrange(4), (1, 2))
    x = x.flip(2) if rng.random() < 0.5 else x
    if rng.random() < 0.5:
        order = [0, 1, 2]
        rng.shuffle(order)
        x = x[order]
    return x ** rng.choice((1.0, 1.0, 0.7, 1.4))


def to_bytes(x: Tensor) -> Tensor:
    """[0, 1] floats -> 0..255 bytes, rounded."""
    return (x * 255).round().clamp(0, 255).byte()
