"""The README's picture: which photographs it shows, and which part of them."""

import pytest
from PIL import Image

from recipes.embedded.pictures import HELD_OUT
from recipes.readme_picture import GAP, HEIGHT, LABEL, SHOWN, WIDTH, Shown, find, pair, small_picture


def test_only_photographs_that_were_held_out_are_shown():
    assert {shown.name for shown in SHOWN} <= HELD_OUT


def test_both_halves_show_the_same_part():
    before, after = Image.new("RGB", (400, 400), "red"), Image.new("RGB", (400, 400), "red")
    before.putpixel((60, 70), (0, 0, 255))
    after.putpixel((60, 70), (0, 255, 0))
    tile = pair(Shown("made up", 50, 40, "dot"), before, after)
    assert tile.getpixel((10, LABEL + 30)) == (0, 0, 255)
    assert tile.getpixel((WIDTH + GAP + 10, LABEL + 30)) == (0, 255, 0)
    assert tile.size == (2 * WIDTH + GAP, LABEL + HEIGHT)


def test_a_part_outside_the_photograph_is_named():
    small = Image.new("RGB", (300, 300))
    with pytest.raises(ValueError, match="made up has 300x300"):
        pair(Shown("made up", 200, 0, "dot"), small, small)


def test_a_photograph_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        find("nowhere", [tmp_path])


def test_a_photograph_is_made_small_the_same_way_each_time(tmp_path):
    path = tmp_path / "a.jpg"
    Image.radial_gradient("L").convert("RGB").resize((200, 140)).save(path)
    first = small_picture(path)
    assert first.shape == (1, 3, 32, 48) and first.equal(small_picture(path))
