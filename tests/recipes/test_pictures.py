"""The training pictures that the repository makes or that a package brings."""

import random

import numpy as np
import torch

from recipes.embedded.pictures import Pictures, recoloured
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


def test_training_crops_are_varied_and_held_out_ones_are_not():
    marked = np.linspace(0, 255, 96 * 96 * 3).reshape(96, 96, 3).astype(np.uint8)
    marked[..., 1:] = 0  # red alone
    training, held_out = Pictures([marked], [], 0.0), Pictures([marked], [], 0.0, held_out=True)
    reds = held_out.batch(random.Random(0), 20, 32)
    assert float(reds[:, 1:].max()) == 0 and torch.equal(reds, held_out.batch(random.Random(0), 20, 32))
    crops = training.batch(random.Random(0), 20, 32)
    assert crops.shape == (20, 3, 32, 32) and float(crops.min()) >= 0 and float(crops.max()) <= 1
    assert 5 < sum(float(crop[1:].max()) > 0 for crop in crops) < 20


def test_other_colours_keep_a_pictures_edges():
    x = np.zeros((8, 8, 3), np.uint8)
    x[:, 4:] = (30, 120, 250)
    for seed in range(20):
        made = recoloured(x, random.Random(seed))
        assert made.dtype == np.uint8 and (made[:, 0] == made[:, 3]).all() and (made[:, 4] == made[:, 7]).all()
        assert np.abs(made[:, 3].astype(int) - made[:, 4]).max() > 60
