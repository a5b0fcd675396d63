import io
import itertools
import os
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from op4ksr_core.errors import ImageError, OutputError
from op4ksr_core.files import format_of
from op4ksr_core.formats import WRITABLE
from op4ksr_core.picture.alpha import fill_hidden
from op4ksr_core.picture.png_chunks import with_chunks
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.write import SaveOptions, check_writable, write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def rgb(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_bytes(picture):
    return (picture.rgb[0].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tiff", ".bmp", ".PNG"])
def test_lossless_formats_read_exactly(tmp_path, suffix):
    Image.fromarray(rgb()).save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture(tmp_path / f"a{suffix}")
    assert np.array_equal(as_bytes(picture), rgb()) and picture.alpha is None and not picture.grey


def test_jpeg_reads(tmp_path):
    Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(as_bytes(read_picture(tmp_path / "a.jpg")).astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_modes(tmp_path, mode):
    image = Image.fromarray(rgb()).convert("RGBA" if mode in ("PA", "LA", "RGBA") else "RGB")
    if mode in ("LA", "RGBA", "PA"):
        image.putalpha(Image.fromarray(rgb()[..., 0]))
    if mode == "PA":
        image = image.quantize(32)
    image = image.convert(mode) if mode not in ("RGBA", "PA") else image
    image.save(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"))
    picture = read_picture(next(tmp_path.glob("a.*")))
    assert picture.rgb.shape == (1, 3, 6, 9)
    assert picture.grey == (mode in ("1", "L", "LA"))
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA", "PA"))
    reference = image.convert("RGBA") if picture.alpha is not None else image.convert("RGB")
    assert np.abs(as_bytes(picture).astype(int) - np.asarray(reference)[..., :3]).max() <= 1
    if picture.alpha is not None:
        assert np.array_equal((picture.alpha[0, 0] * 255).round().byte().numpy(), np.asarray(reference)[..., 3])


def test_transparent_colour_key(tmp_path):
    Image.fromarray(rgb()).save(tmp_path / "a.png", transparency=tuple(int(v) for v in rgb()[2, 3]))
    alpha = read_picture(tmp_path / "a.png").alpha
    assert alpha is not None and float(alpha[0, 0, 2, 3]) == 0 and float(alpha.sum()) == 6 * 9 - 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_there_and_back(tmp_path, channels, suffix):
    array = np.random.default_rng(1).integers(0, 65_536, (5, 7, channels), dtype=np.uint16)
    rgb_planes = torch.from_numpy(array.astype(np.float32) / 65_535).permute(2, 0, 1)[None]
    colour = rgb_planes[:, :3] if channels > 2 else rgb_planes[:, :1].expand(-1, 3, -1, -1)
    alpha = rgb_planes[:, -1:] if channels in (2, 4) else None
    write_picture(tmp_path / f"a{suffix}", Picture(colour, alpha, channels < 3, 16, PROFILE))
    if suffix == ".png":
        independent = png.Reader(filename=str(tmp_path / "a.png")).read()
        assert np.array_equal(np.vstack([np.array(row) for row in independent[2]]).reshape(array.shape), array)
    else:
        assert np.array_equal(tifffile.imread(tmp_path / "a.tif").reshape(array.shape), array)
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.depth == 16 and back.grey == (channels < 3) and (back.alpha is None) == (alpha is None)
    torch.testing.assert_close(back.rgb, colour, rtol=0, atol=1e-6)
    if alpha is not None:
        torch.testing.assert_close(back.alpha, alpha, rtol=0, atol=1e-6)
    assert back.icc == PROFILE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [8, 16])
def test_exif_orientation(tmp_path, orientation, depth):
    upright = rgb()
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "kept"
    stored = Image.fromarray(upright)
    # The stored pixels are such that a viewer's turn makes them upright.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    if orientation > 1:
        stored = stored.transpose(list(Image.Transpose)[inverse[orientation]])
    if depth == 8:
        stored.save(tmp_path / "a.png", exif=exif)
    else:
        planes = torch.from_numpy(np.asarray(stored).astype(np.float32) / 255).permute(2, 0, 1)[None]
        write_picture(tmp_path / "plain.png", Picture(planes, depth=16))
        block = [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))]
        (tmp_path / "a.png").write_bytes(with_chunks((tmp_path / "plain.png").read_bytes(), block))
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(as_bytes(picture), upright)
    write_picture(tmp_path / "b.png", picture)
    again = Image.open(tmp_path / "b.png")
    assert 0x0112 not in again.getexif() and again.getexif()[0x010E] == "kept"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profile_is_kept(tmp_path, suffix):
    Image.fromarray(rgb()).save(tmp_path / "a.png", icc_profile=PROFILE)
    write_picture(tmp_path / f"b{suffix}", read_picture(tmp_path / "a.png"))
    assert Image.open(tmp_path / f"b{suffix}").info["icc_profile"] == PROFILE


@pytest.mark.parametrize(("alpha", "suffix"), list(itertools.product([True, False], [".png", ".webp", ".tif"])))
def test_writing_is_exact(tmp_path, alpha, suffix):
    planes = torch.from_numpy(rgb().astype(np.float32) / 255).permute(2, 0, 1)[None]
    picture = Picture(planes, planes[:, :1] if alpha else None)
    write_picture(tmp_path / f"a{suffix}", picture, SaveOptions(lossless=True))
    back = read_picture(tmp_path / f"a{suffix}")
    assert torch.equal(back.rgb, picture.rgb) and (back.alpha is None or torch.equal(back.alpha, picture.alpha))
    assert [f.name for f in tmp_path.iterdir()] == [f"a{suffix}"]


def test_quality_acts(tmp_path):
    planes = torch.rand(1, 3, 64, 64)
    sizes = []
    for quality in (30, 95):
        write_picture(tmp_path / "a.jpg", Picture(planes), SaveOptions(quality=quality))
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[1] > 1.5 * sizes[0]


def test_what_a_format_cannot_hold():
    planes = torch.rand(1, 3, 4, 4)
    with pytest.raises(OutputError, match="JPEG.*transparency"):
        check_writable(Picture(planes, planes[:, :1]), 16, 16, WRITABLE["jpg"])
    with pytest.raises(OutputError, match="webp.*16383 px.*20000x16"):
        check_writable(Picture(planes), 16, 20_000, WRITABLE["webp"])
    assert "16 bits" in check_writable(Picture(planes, depth=16), 16, 16, WRITABLE["jpg"])[0]
    with pytest.raises(OutputError, match=r"\.xyz"):
        format_of(Path("a.xyz"))


@pytest.mark.parametrize(
    ("content", "names"),
    [(b"", "0 bytes"), (b"this is text, not a picture", "not a picture"), (b"\x89PNG\r\n\x1a\n", "not a picture|cut")],
)
def test_no_picture(tmp_path, content, names):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=names):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("depth", [8, 16])
def test_truncated(tmp_path, name, depth):
    if depth == 16 and name in ("a.jpg", "a.webp"):
        depth = 8
    write_picture(tmp_path / name, Picture(torch.rand(1, 3, 64, 64), depth=depth))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="a\\.[a-z]+"):
        read_picture(tmp_path / name)


def test_missing_file_and_floats(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.png"):
        read_picture(tmp_path / "absent.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif.*floating-point"):
        read_picture(tmp_path / "f.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_a_large_picture_is_refused_by_its_header(tmp_path, suffix):
    Image.fromarray(rgb()).save(tmp_path / f"a{suffix}")
    with pytest.raises(ImageError, match=rf"a\{suffix} .*9x6 px.*2e-05.*--max-megapixels"):
        read_picture(tmp_path / f"a{suffix}", max_megapixels=2e-5)


def test_animation_says_so(tmp_path):
    frames = [Image.fromarray(rgb(seed=s)) for s in (0, 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif").notes == ("first of 2 frames",)


def test_hidden_colours_do_not_bleed():
    colour = torch.zeros(1, 3, 40, 40)
    alpha = torch.zeros(1, 1, 40, 40)
    colour[..., :20], alpha[..., :20] = 0.8, 1.0
    filled = fill_hidden(colour, alpha)
    assert torch.equal(filled[..., :20], colour[..., :20])
    torch.testing.assert_close(filled[..., 20:30], torch.full((1, 3, 40, 10), 0.8), atol=1e-3, rtol=0)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", Picture(torch.zeros(1, 3, 4, 4)))
    before = (tmp_path / "a.png").read_bytes()

    def full(number):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("op4ksr_core.files.os.fsync", full)
    with pytest.raises(OutputError, match=r"a\.png.*No space left"):
        write_picture(tmp_path / "a.png", Picture(torch.ones(1, 3, 4, 4)))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_bytes_io_is_a_real_png(tmp_path):
    write_picture(tmp_path / "a.png", Picture(torch.rand(1, 3, 4, 4), depth=16, icc=PROFILE))
    opened = Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))
    opened.load()
    assert opened.info["icc_profile"] == PROFILE
