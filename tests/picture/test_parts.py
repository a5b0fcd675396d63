"""A part of a picture is what the whole one has there, in every format and orientation."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from op4ksr_core.errors import ImageError
from op4ksr_core.geometry import Part
from op4ksr_core.picture import read
from op4ksr_core.picture.orientation import ORIENTATION
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.write import write_picture

PART = Part(5, 3, 20, 12)


def assert_part_of_whole(path, part=PART):
    whole, cut = read_picture(path), read_picture(path, part=part)
    rows, columns = slice(part.top, part.top + part.height), slice(part.left, part.left + part.width)
    assert cut.rgb.shape[-2:] == (part.height, part.width) and torch.equal(cut.rgb, whole.rgb[..., rows, columns])
    if whole.alpha is not None:
        assert torch.equal(cut.alpha, whole.alpha[..., rows, columns])


@pytest.fixture
def array():
    return np.random.default_rng(4).integers(0, 256, (37, 50, 4), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_turned_pictures(tmp_path, array, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(array[..., :3]).save(tmp_path / f"a.{suffix}", exif=exif)
    assert_part_of_whole(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_modes(tmp_path, array, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(array).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode).save(path)
    assert_part_of_whole(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits(tmp_path, name):
    write_picture(tmp_path / name, Picture(torch.rand(1, 3, 37, 50), torch.rand(1, 1, 37, 50), depth=16))
    assert_part_of_whole(tmp_path / name)


def test_grey_of_sixteen_bits(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array[..., 0].astype(np.uint16) * 257)
    Image.fromarray(array[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        assert_part_of_whole(tmp_path / name)


def test_a_part_beyond_the_picture_is_named(tmp_path, array):
    Image.fromarray(array[..., :3]).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png .*50x37 px.*40,3,20,12"):
        read_picture(tmp_path / "a.png", part=Part(40, 3, 20, 12))


def test_no_more_than_the_part_becomes_numbers(tmp_path, array, monkeypatch):
    Image.fromarray(array[..., :3]).save(tmp_path / "a.jpg")
    shapes, make = [], read._from_array

    def noted(colour, *rest):
        shapes.append(colour.shape)
        return make(colour, *rest)

    monkeypatch.setattr(read, "_from_array", noted)
    read_picture(tmp_path / "a.jpg", part=PART)
    assert shapes == [(12, 20, 3)]


def test_a_png_without_exif_is_not_decoded_for_its_orientation(tmp_path, array, monkeypatch):
    from PIL import PngImagePlugin

    from op4ksr_core.picture.header import read_header

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(array[..., :3]).save(tmp_path / "plain.png")
    Image.fromarray(array[..., :3]).save(tmp_path / "turned.png", exif=exif)
    assert str(read_header(tmp_path / "turned.png").size) == "37x50"
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("decoded"))
    assert str(read_header(tmp_path / "plain.png").size) == "50x37"
