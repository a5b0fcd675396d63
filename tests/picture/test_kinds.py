"""Odd pictures: read rightly, against another reader or by construction, or refused by name."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from op4ksr_core.errors import ImageError
from op4ksr_core.geometry import Size
from op4ksr_core.picture.header import read_header
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.write import write_picture

HEIGHT, WIDTH = 12, 16
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
GREY = COLOUR[..., 0]
ALPHA = RNG.integers(20_000, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array, kind, depth, *extra, height=None):
    """A PNG by hand: big-endian rows without filters."""
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], height or array.shape[0], depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def read(tmp_path, data, name="a.tif"):
    (tmp_path / name).write_bytes(data)
    return read_picture(tmp_path / name)


def levels(tensor):
    """16-bit values (H, W, C)."""
    return (tensor[0].movedim(0, -1) * 65535).round().numpy()


UN, ASSOCIATED = {"extrasamples": ["unassalpha"]}, {"extrasamples": ["assocalpha"]}
RGB, BLACK, WHITE = ({"photometric": name} for name in ("rgb", "minisblack", "miniswhite"))
SHARE = ALPHA[..., None] / 65535


@pytest.mark.parametrize(
    ("data", "colour", "alpha"),
    [
        (tiff(65535 - GREY, **WHITE), GREY[..., None], None),
        (tiff(np.stack([65535 - GREY, ALPHA], -1), **WHITE, **UN), GREY[..., None], ALPHA),
        (tiff(np.dstack([(COLOUR * SHARE).round().astype(np.uint16), ALPHA]), **RGB, **ASSOCIATED), COLOUR, ALPHA),
        (tiff(np.dstack([COLOUR, GREY]), **RGB, extrasamples=["unspecified"]), COLOUR, None),
        (tiff(np.dstack([COLOUR, GREY, ALPHA]), **RGB, extrasamples=["unspecified", "unassalpha"]), COLOUR, ALPHA),
        (tiff(np.moveaxis(np.dstack([COLOUR, ALPHA]), -1, 0), **RGB, **UN, planarconfig="separate"), COLOUR, ALPHA),
        (tiff(COLOUR, **RGB, bigtiff=True, byteorder=">"), COLOUR, None),
        (tiff(COLOUR, **RGB, tile=(16, 16), compression="zlib"), COLOUR, None),
    ],
    ids="white white-alpha premultiplied extra five planar big tiled".split(),
)
def test_deep_tiffs(tmp_path, data, colour, alpha):
    found = read(tmp_path, data)
    assert found.depth == 16 and np.abs(levels(found.rgb) - colour).max() <= 2
    assert (found.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.array_equal(levels(found.alpha)[..., 0], alpha)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_grey_tiff_is_turned(tmp_path, orientation):
    found = read(tmp_path, tiff(GREY, **BLACK, extratags=[(274, 3, 1, orientation, True)]))
    Image.fromarray((GREY >> 8).astype(np.uint8)).save(
        tmp_path / "eight.png", exif=(lambda e: (e.__setitem__(0x0112, orientation), e)[1])(Image.Exif())
    )
    eight = read_picture(tmp_path / "eight.png")
    assert found.rgb.shape == eight.rgb.shape
    assert float((found.rgb - eight.rgb).abs().max()) < 2 / 255
    assert read_header(tmp_path / "a.tif").size == Size(*found.rgb.shape[-2:])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (tiff(GREY.view(np.int16), **BLACK), "signed"),
        (tiff(GREY.astype(np.float32), **BLACK), "floating-point"),
        (tiff(GREY.astype(np.uint32), **BLACK), "32 bits"),
        (tiff(np.dstack([COLOUR, ALPHA]), photometric="separated"), "CMYK.*4 channels.*16 bits"),
        (tiff(COLOUR, photometric="cielab"), "Lab.*3 channels.*16 bits"),
    ],
)
def test_what_would_come_out_wrong_is_refused(tmp_path, data, text):
    with pytest.raises(ImageError, match=text):
        read(tmp_path, data)


def test_a_transparent_colour_of_16_bits(tmp_path):
    grey = np.where(GREY > 30_000, GREY, 1000).astype(np.uint16)
    found = read(tmp_path, png(grey[..., None], 0, 16, chunk(b"tRNS", struct.pack(">H", 1000))), "a.png")
    assert np.array_equal(levels(found.alpha)[..., 0] > 0, grey != 1000)
    colour = COLOUR.copy()
    colour[:3] = 100, 200, 300
    found = read(tmp_path, png(colour, 2, 16, chunk(b"tRNS", struct.pack(">HHH", 100, 200, 300))), "a.png")
    assert float(found.alpha[..., :3, :].max()) == 0 and float(found.alpha[..., 3:, :].min()) == 1


@pytest.mark.parametrize("depth", [8, 16])
def test_a_header_taller_than_its_data_is_refused(tmp_path, depth):
    array = (COLOUR >> (16 - depth)).astype(np.uint16 if depth == 16 else np.uint8)
    with pytest.raises(ImageError, match=rf"a\.png .*{WIDTH}x200 px"):
        read(tmp_path, png(array, 2, depth, height=200), "a.png")


@pytest.mark.parametrize("junk", [b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0no header at all"])
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_junk_exif_never_costs_a_picture(tmp_path, junk, suffix):
    Image.fromarray((COLOUR >> 8).astype(np.uint8)).save(tmp_path / f"a{suffix}", exif=junk)
    found = read_picture(tmp_path / f"a{suffix}")
    assert found.rgb.shape[-2:] == (HEIGHT, WIDTH)
    write_picture(tmp_path / "b.png", found)


def test_a_picture_is_read_by_what_it_is_not_by_its_name(tmp_path):
    found = read(tmp_path, tiff(COLOUR, **RGB), "a.jpg")
    assert found.depth == 16 and np.array_equal(levels(found.rgb), COLOUR)
    with pytest.raises(ImageError, match=r"a\.png is not a picture"):
        read(tmp_path, b"%PDF-1.4\n" + b"x" * 300, "a.png")


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_profile_texts_and_xmp_go_along(tmp_path, suffix, depth):
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "TestMakerInc", "2026:01:02 03:04:05"
    xmp = b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"/><?xpacket end="w"?>'
    picture = Picture(torch.rand(1, 3, 16, 24), depth=depth, icc=PROFILE, exif=exif.tobytes(), xmp=xmp)
    write_picture(tmp_path / f"a{suffix}", picture)
    found = read_picture(tmp_path / f"a{suffix}")
    kept = Image.Exif()
    kept.load(found.exif)
    assert found.icc == PROFILE and found.xmp == xmp
    assert (kept[0x010F], kept[0x0132]) == ("TestMakerInc", "2026:01:02 03:04:05")


@pytest.mark.parametrize("side", [20_000, 60_000])
def test_a_small_file_that_claims_a_huge_picture_is_refused_at_once(tmp_path, side):
    rows, started = 64, time.perf_counter()
    data = tiff(COLOUR, **RGB, rowsperstrip=4)
    for tag, form in ((256, "I"), (257, "I")):
        data = patched(data, tag, side, form)
    with pytest.raises(ImageError, match=f"{side}x{side} px.*--max-megapixels"):
        read(tmp_path, data)
    assert time.perf_counter() - started < 3 and rows


def patched(data, tag, value, form):
    """The first page's tag set to another value."""
    out = bytearray(data)
    start = struct.unpack("<I", out[4:8])[0]
    for n in range(struct.unpack("<H", out[start : start + 2])[0]):
        at = start + 2 + 12 * n
        if struct.unpack("<H", out[at : at + 2])[0] == tag:
            out[at + 2 : at + 12] = struct.pack("<HI", 4, 1) + struct.pack("<" + form, value)
    return bytes(out)


FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def examples():
    """Good files of every format."""
    eight = Image.fromarray((COLOUR >> 8).astype(np.uint8))
    files = []
    for name in FORMATS:
        buffer = io.BytesIO()
        eight.save(buffer, name)
        files.append(buffer.getvalue())
    return [*files, png(COLOUR, 2, 16), tiff(COLOUR, **RGB, compression="zlib"), tiff(GREY, **WHITE)]


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_by_name(tmp_path):
    """Bits of good files flipped, and files cut: a picture or an ImageError, never another exception."""
    from hypothesis import given, seed, settings
    from hypothesis import strategies as st

    good, path = examples(), tmp_path / "damaged.png"

    @seed(1)
    @settings(max_examples=2000, deadline=None, database=None)
    @given(st.sampled_from(range(len(good))), st.lists(st.integers(0, 10**6), max_size=6), st.floats(0.05, 1))
    def damaged(which, flips, share):
        data = bytearray(good[which])
        for flip in flips:
            data[flip // 8 % len(data)] ^= 1 << flip % 8
        path.write_bytes(bytes(data[: max(1, int(share * len(data)))]))
        try:
            found = read_picture(path)
        except ImageError as error:
            assert "damaged.png" in str(error)
        else:
            assert torch.isfinite(found.rgb).all() and found.rgb.ndim == 4

    damaged()
