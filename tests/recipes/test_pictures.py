"""The training pictures that the repository makes or that a package brings."""

import random

import numpy as np
import torch
from PIL import Image

from op4ksr_core.geometry import Size
from op4ksr_core.train.degradation.apply import apply
from op4ksr_core.train.degradation.draw import draw
from recipes.embedded.crop_pool import CropPool, blobs, degraded_alike, recoloured, seen_by_one_lens
from recipes.embedded.pictures import HELD_OUT, LEFT_OUT, LIGHT, Pictures, kind_of, many
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


def small_pool(patch):
    patches = patch.expand(4, 3, 96, 96).contiguous()
    return CropPool(patches, patches, torch.full_like(patches, 7))


def test_crops_are_varied_and_repeat():
    red = torch.zeros(3, 96, 96, dtype=torch.uint8)
    red[0] = torch.arange(96)
    pool = small_pool(red)
    crops = pool.crops(random.Random(0), 40, 32)
    assert crops.shape == (40, 3, 32, 32) and float(crops.min()) >= 0 and float(crops.max()) <= 1
    assert torch.equal(crops, pool.crops(random.Random(0), 40, 32))
    assert 4 < sum(float(crop[1:].max()) > 0 for crop in crops) < 30


def test_pairs_hold_degraded_crops_and_some_graphics():
    pool = small_pool(torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8))
    small, true, drawn = pool.pairs(random.Random(0), 40, 64)
    assert small.shape == (40, 3, 16, 16) and true.shape == (40, 3, 64, 64) and drawn.shape == (40,)
    assert 0 < int(drawn.sum()) < 20
    assert (true[drawn] == 7 / 255).all() and float(true[~drawn].std()) > 0.1
    assert torch.equal(small, (small * 255).round() / 255)


def test_what_one_lens_sees_twice_is_as_soft_in_its_own_px():
    """Half of a step's height over its steepest px: 1.25 sigma of a Gaussian; reducing softens a little more."""
    step = (torch.arange(128) >= 64).float().expand(1, 3, 128, 128) * 0.8 + 0.1
    for seed in range(6):
        small, large = seen_by_one_lens(step, random.Random(seed), torch.Generator().manual_seed(seed))
        widths = [0.4 / float((x.mean((0, 1, 2)).diff()).max()) for x in (small, large)]
        assert widths[1] <= widths[0] * 1.1 and widths[0] < widths[1] + 0.6
    pool = small_pool(torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8))
    small, large = pool.lens_pairs(random.Random(0), 4, 64)
    assert small.shape == (4, 3, 16, 16) and large.shape == (4, 3, 64, 64)


def test_a_crops_light_degradation_is_the_papers_steps():
    picture = torch.rand(1, 3, 64, 64)
    steps = draw(Size(64, 64), torch.Generator().manual_seed(random.Random(3).randrange(2**40)), LIGHT)
    expected, dice = picture, torch.Generator().manual_seed(0)
    for step in steps:
        expected = apply(step, expected, dice)
    made = degraded_alike(picture, random.Random(3), torch.Generator().manual_seed(0), LIGHT)
    torch.testing.assert_close(made, expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_other_colours_keep_a_pictures_edges():
    x = torch.zeros(40, 3, 8, 8)
    x[..., 4:] = torch.tensor([30.0, 120, 250])[:, None, None] / 255
    made = recoloured(x, torch.Generator().manual_seed(0))
    assert (made[..., 0] == made[..., 3]).all() and (made[..., 4] == made[..., 7]).all()
    assert float((made[..., 3] - made[..., 4]).abs().amax((1, 2)).min()) > 60 / 255


def test_blobs_are_black_and_white_with_narrow_edges():
    made = blobs(torch.Generator().manual_seed(0), 8, 64, 5)
    assert made.shape == (8, 1, 64, 64) and 0.3 < float(made.mean()) < 0.7
    assert float(((made > 0.1) & (made < 0.9)).float().mean()) < 0.2


def test_kinds_of_crops():
    rng = np.random.default_rng(0)
    flat = np.full((64, 64, 3), 120, np.uint8)
    lines = flat.copy()
    lines[:, ::16] = lines[:, 1::16] = 255
    kinds = {
        "dark": flat // 4, "soft": flat, "print": lines, "skin": flat // 120 * np.array([205, 160, 130], np.uint8),
        "texture": rng.integers(60, 180, (64, 64, 3)).astype(np.uint8),
    }  # fmt: skip
    for kind, part in kinds.items():
        assert kind_of(part) == kind


def test_held_out_and_doubtful_photographs_are_not_trained_on(tmp_path):
    held_out = sorted(HELD_OUT)[0]
    for number, name in enumerate((held_out, LEFT_OUT[0], "mine")):
        Image.fromarray(np.full((80, 80, 3), 40 * number, np.uint8)).save(tmp_path / f"{name}.jpg")
    assert len(Pictures.load([tmp_path], held_out=True).photos) == 1
    photos = Pictures.load([tmp_path], scenes=0).photos
    assert sum(photo.shape == (80, 80, 3) for photo in photos) == 1


def test_workers_make_the_same_crops():
    def made(number):
        return np.full((2, 2, 3), number, np.uint8)

    assert all((a == b).all() for a, b in zip(many(made, 20, 0), many(made, 20, 2), strict=True))
