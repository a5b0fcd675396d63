"""The training pictures that the repository makes or that a package brings."""

import torch

from recipes.pictures import PHOTOS, photo
from recipes.scenes import render


def test_scenes_are_pictures_and_repeat():
    a, again, other = render(96, 3), render(96, 3), render(96, 4)
    assert a.shape == (3, 96, 96) and float(a.min()) >= 0 and float(a.max()) <= 1
    assert torch.equal(a, again) and not torch.equal(a, other)


def test_scenes_vary_and_hold_edges():
    scenes = torch.stack([render(128, s) for s in range(24)])
    assert float(scenes.mean((1, 2, 3)).std()) > 0.05
    gradients = (scenes[..., 1:] - scenes[..., :-1]).abs()
    assert float((gradients > 0.2).float().mean()) > 0.005
    assert float((gradients < 0.01).float().mean()) > 0.2  # and flat areas


def test_the_photos_are_there_and_astronaut_is_not_among_them():
    assert "astronaut" not in PHOTOS
    assert all(photo(name).shape[0] == 3 for name in PHOTOS)
