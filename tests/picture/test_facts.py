"""What a file says beside its pixels: kept, converted, noted or refused, and never the source's own structure."""

import io
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps
from torch.nn import functional as F

from op4ksr_core.errors import ImageError, OutputError, SettingError
from op4ksr_core.files import format_of
from op4ksr_core.formats import WRITABLE
from op4ksr_core.geometry import Size
from op4ksr_core.picture.colour_space import coded_as_srgb
from op4ksr_core.picture.header import read_header
from op4ksr_core.picture.png_chunks import chunk_data, text_chunk, with_chunks
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.write import SaveOptions, check_writable, write_picture

HEIGHT, WIDTH = 12, 20
STEPS = np.linspace(20, 235, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 1)) * (1.0, 0.8, 0.5)
SMOOTH = STEPS.astype(np.uint8)
FORMATS = ["png", "jpg", "webp", "tif"]
EXIF_IFD, GPS_IFD = 0x8769, 0x8825


def saved(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def as_png(*chunks, array=SMOOTH):
    return with_chunks(saved(Image.fromarray(array), "PNG"), chunks)


def enlarged(folder, data, suffix, name="source"):
    """The file of that content, enlarged twofold and written in another format; (path, picture read, notes)."""
    source = folder / name
    source.write_bytes(data)
    found = read_picture(source)
    rgb = F.interpolate(found.rgb, scale_factor=2, mode="bicubic").clamp(0, 1)
    alpha = None if found.alpha is None else F.interpolate(found.alpha, scale_factor=2)
    larger = replace(found, rgb=rgb, alpha=alpha)
    out = folder / f"out.{suffix}"
    lost = check_writable(larger, *rgb.shape[-2:], format_of(out))
    write_picture(out, larger)
    return out, found, found.notes + lost


def exif_of(path):
    found = Image.open(path).getexif()
    return dict(found), dict(found.get_ifd(EXIF_IFD)), dict(found.get_ifd(GPS_IFD))


def phone_exif(orientation=1):
    """As phones write it: structure beside texts, sizes, a maker's note, the Adobe RGB mark, a place."""
    exif = Image.Exif()
    structure = {256: WIDTH, 257: HEIGHT, 258: (8, 8, 8), 273: 8, 278: HEIGHT, 279: 40, 317: 2}
    for tag, value in {**structure, 0x0112: orientation, 0x010F: "SomePhone", 0x010E: "caf\u00e9".encode()}.items():
        exif[tag] = value
    own = {0xA002: WIDTH, 0xA003: HEIGHT, 0x9003: "2026:01:02 03:04:05", 0x927C: b"maker" * 9, 0xA005: {1: "R03"}}
    exif[EXIF_IFD] = own
    exif[GPS_IFD] = {1: "N", 2: (52.0, 30.0, 1.0)}
    return exif


def xmp_packet(inside="", attributes=""):
    spaces = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    spaces += ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {spaces} {attributes}>{inside}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


GREY = np.stack([SMOOTH[..., 0], SMOOTH[..., 1]], -1)
TIFFS = {
    "lzw": lambda im: saved(im, "TIFF", compression="tiff_lzw"),
    "lzw with alpha": lambda im: saved(with_alpha(im), "TIFF", compression="tiff_lzw"),
    "palette": lambda im: saved(im.quantize(64), "TIFF"),
    "palette, lzw": lambda im: saved(im.quantize(64), "TIFF", compression="tiff_lzw"),
    "cmyk": lambda im: saved(im.convert("CMYK"), "TIFF", compression="tiff_lzw"),
    "group 4": lambda im: saved(im.convert("1"), "TIFF", compression="group4"),
    "jpeg": lambda im: saved(im, "TIFF", compression="jpeg", quality=97),
    "packbits": lambda im: saved(im, "TIFF", compression="packbits"),
    "grey with alpha": lambda im: saved(Image.fromarray(GREY, "LA"), "TIFF", compression="tiff_lzw"),
    "planar, lzw, 16 bits": lambda im: planar(np.asarray(im).astype(np.uint16) * 257),
    "planar, lzw": lambda im: planar(np.asarray(im)),
    "predictor": lambda im: tiff(np.asarray(im), compression="lzw", predictor=2),
}


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="rgb", **options)
    return buffer.getvalue()


def planar(array):
    return tiff(np.moveaxis(array, -1, 0), planarconfig="separate", compression="lzw")


def with_alpha(image):
    image = image.copy()
    image.putalpha(Image.fromarray(SMOOTH[..., 1]))
    return image


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("kind", TIFFS)
def test_the_sources_structure_is_never_copied(tmp_path, kind, suffix):
    """A second reader sees the enlarged picture, whole, whatever the source's compression, palette or planes."""
    source = Image.fromarray(SMOOTH)
    out, found, _ = enlarged(tmp_path, TIFFS[kind](source), suffix)
    with Image.open(out) as image:
        assert image.size == (2 * WIDTH, 2 * HEIGHT)
        got = np.asarray(image.convert("RGB"), float)
    with Image.open(tmp_path / "source") as image:
        wanted = np.asarray(image.convert("RGB").resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC), float)
    if "16" not in kind and "planar" not in kind:  # Pillow reads those, if at all, in its own way
        assert np.abs(got - wanted).mean() < (40 if kind == "group 4" else 4)
    assert (found.alpha is not None) == ("alpha" in kind)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_goes_along_and_sizes_are_the_results_own(tmp_path, suffix, orientation):
    data = saved(Image.fromarray(SMOOTH), "JPEG", exif=phone_exif(orientation), quality=95)
    out, _, notes = enlarged(tmp_path, data, suffix)
    height, width = (WIDTH, HEIGHT) if orientation == 6 else (HEIGHT, WIDTH)
    with Image.open(out) as image:
        assert image.size == (2 * width, 2 * height)
        assert image.getexif().get_ifd(0xA005) == {1: "R03"}
        assert ImageOps.exif_transpose(image).size == image.size
    main, own, place = exif_of(out)
    assert main.get(0x0112, 1) == 1 and main[0x010F] == "SomePhone"
    assert (own[0xA002], own[0xA003]) == (2 * width, 2 * height)
    assert own[0x9003] == "2026:01:02 03:04:05" and 0x927C not in own and place[1] == "N"
    assert 317 not in main and (suffix == "tif" or not {256, 257, 273, 278, 279} & set(main))
    description = main[0x010E]
    assert (description if isinstance(description, bytes) else description.encode("latin-1")) == "caf\u00e9".encode()
    assert any("maker's note" in note for note in notes)
    assert read_picture(out).rgb.shape[-2:] == (2 * height, 2 * width)


def test_private_tags_are_named(tmp_path):
    exif = phone_exif()
    exif[33550] = (1.0, 1.0, 0.0)
    _, _, notes = enlarged(tmp_path, saved(Image.fromarray(SMOOTH), "JPEG", exif=exif), "png")
    assert "33550" in " ".join(notes)


ORIENTED = [
    xmp_packet(attributes='tiff:Orientation="6" exif:PixelXDimension="20" dc:format="image/jpeg"'),
    xmp_packet("<tiff:Orientation>6</tiff:Orientation><tiff:ImageWidth>20</tiff:ImageWidth><dc:format>x</dc:format>"),
    xmp_packet("<t:Orientation xmlns:t='http://ns.adobe.com/tiff/1.0/'>6</t:Orientation><dc:format>x</dc:format>"),
]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("xmp", ORIENTED, ids=["attribute", "element", "another prefix"])
def test_a_picture_is_turned_once(tmp_path, suffix, xmp):
    """Orientation in XMP goes once the pixels are turned, else the next program turns them again."""
    data = saved(Image.fromarray(SMOOTH), "JPEG", exif=phone_exif(6), xmp=xmp)
    out, _, _ = enlarged(tmp_path, data, suffix)
    with Image.open(out) as image:
        assert ImageOps.exif_transpose(image).size == image.size == (2 * HEIGHT, 2 * WIDTH)
    kept = read_picture(out).xmp
    assert b"Orientation" not in kept and b"PixelXDimension" not in kept and b"ImageWidth" not in kept
    assert b"format" in kept


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_in_xmp_alone_turns_once(tmp_path, kind):
    image = Image.fromarray(SMOOTH)
    if kind == "PNG":
        data = with_chunks(saved(image, "PNG"), [text_chunk("XML:com.adobe.xmp", ORIENTED[0].decode())])
    elif kind == "TIFF":
        data = tiff(SMOOTH, extratags=[(700, 1, len(ORIENTED[0]), ORIENTED[0], True)])
    else:
        data = saved(image, "WEBP", lossless=True, xmp=ORIENTED[0])
    out, found, _ = enlarged(tmp_path, data, "png")
    assert read_header(tmp_path / "source").size == Size(*found.rgb.shape[-2:])
    again, _, _ = enlarged(tmp_path, out.read_bytes(), "png", "again")
    assert read_picture(again).rgb.shape[-2:] == (4 * found.rgb.shape[-2], 4 * found.rgb.shape[-1])


def extended(packet, guid="0" * 32):
    head = b"http://ns.adobe.com/xmp/extension/\0" + guid.encode() + struct.pack(">II", len(packet), 0)
    return b"\xff\xe1" + struct.pack(">H", len(head) + len(packet) + 2) + head + packet


def test_extended_xmp_joins_without_orientation_and_pictures(tmp_path):
    note = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="' + "0" * 32 + '"'
    more = xmp_packet(
        "<dc:title>far</dc:title><tiff:Orientation>8</tiff:Orientation>"
        "<GImage:Data xmlns:GImage='http://ns.google.com/photos/1.0/image/'>AAAA</GImage:Data>"
    )
    data = saved(Image.fromarray(SMOOTH), "JPEG", xmp=xmp_packet(attributes=note), exif=phone_exif(6))
    data = data[:2] + extended(more) + data[2:]
    out, _, _ = enlarged(tmp_path, data, "jpg")
    kept = read_picture(out).xmp
    assert b"far" in kept
    assert not any(word in kept for word in (b"Orientation", b"AAAA", b"HasExtendedXMP"))


def test_damaged_xmp_is_noted_and_costs_nothing(tmp_path):
    _, found, notes = enlarged(tmp_path, saved(Image.fromarray(SMOOTH), "JPEG", xmp=b"<x:xmpmeta <broken"), "png")
    assert found.xmp is None and any("XMP" in note for note in notes)


def test_gain_maps_and_credentials_are_named(tmp_path):
    gain = xmp_packet(attributes='xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"')
    out, _, notes = enlarged(tmp_path, saved(Image.fromarray(SMOOTH), "JPEG", xmp=gain), "jpg")
    assert any("gain map" in note for note in notes) and b"hdrgm:Version" not in out.read_bytes()
    _, _, notes = enlarged(tmp_path, as_png((b"caBX", b"jumb")), "png")
    assert any("C2PA" in note for note in notes)


ADOBE = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
GAMMA_22 = struct.pack(">I", 45455)


@pytest.mark.parametrize("suffix", FORMATS)
def test_primaries_are_kept_or_become_a_profile(tmp_path, suffix):
    out, found, notes = enlarged(tmp_path, as_png((b"gAMA", GAMMA_22), (b"cHRM", ADOBE)), suffix)
    np.testing.assert_array_equal((found.rgb[0].movedim(0, -1) * 255).round().byte().numpy(), SMOOTH)
    if suffix == "png":
        assert chunk_data(out, (b"gAMA", b"cHRM")) == {b"gAMA": GAMMA_22, b"cHRM": ADOBE}
        return
    assert any("written as an ICC profile" in note for note in notes)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(Image.open(out).info["icc_profile"]))
    assert profile.profile.xcolor_space.strip() == "RGB"
    red, green = profile.profile.red_colorant[0], profile.profile.green_colorant[0]
    np.testing.assert_allclose(red, (0.60974, 0.31111, 0.01947), atol=2e-3)  # Adobe RGB (1998), annex A
    np.testing.assert_allclose(green, (0.20528, 0.62567, 0.06087), atol=2e-3)


def test_a_stated_srgb_needs_no_profile(tmp_path):
    out, _, notes = enlarged(tmp_path, as_png((b"sRGB", b"\0"), (b"gAMA", GAMMA_22)), "jpg")
    assert "icc_profile" not in Image.open(out).info and not notes
    out, _, _ = enlarged(tmp_path, as_png((b"sRGB", b"\0"), (b"gAMA", GAMMA_22)), "png")
    assert b"sRGB" in out.read_bytes()


@pytest.mark.parametrize("chunk", [(b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes([1, 8, 0, 1]))])
def test_linear_light_is_coded_as_srgb(tmp_path, chunk):
    out, found, notes = enlarged(tmp_path, as_png(chunk), "png")
    wanted = coded_as_srgb(torch.from_numpy(SMOOTH).float() / 255)
    torch.testing.assert_close(found.rgb[0].movedim(0, -1), wanted, atol=1e-6, rtol=0)
    assert any("linear" in note for note in notes)
    again = read_picture(out)
    assert not again.notes and again.rgb.mean() == pytest.approx(float(wanted.mean()), abs=0.01)


@pytest.mark.parametrize(("code", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_stays_in_png(tmp_path, code, name):
    out, found, notes = enlarged(tmp_path, as_png((b"cICP", bytes([9, code, 0, 1])), (b"cLLI", bytes(8))), "png")
    assert chunk_data(out, (b"cICP", b"cLLI")) == {b"cICP": bytes([9, code, 0, 1]), b"cLLI": bytes(8)}
    assert any(name in note for note in notes)
    for file_format in ("jpg", "webp", "tiff"):
        with pytest.raises(OutputError, match=f"{name}.*Write png"):
            check_writable(found, 8, 8, WRITABLE[file_format])


def test_what_comes_first_where_several_say_it(tmp_path):
    """cICP, then ICC, then sRGB, then gAMA and cHRM."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc, p3 = (b"iCCP", b"p\0\0" + zlib.compress(profile)), (b"cICP", bytes([12, 13, 0, 1]))
    _, found, _ = enlarged(tmp_path, as_png(p3, icc, (b"gAMA", GAMMA_22)), "png")
    assert found.stated.by == "cICP"
    out, found, notes = enlarged(tmp_path, as_png(icc, (b"gAMA", GAMMA_22), (b"cHRM", ADOBE)), "png")
    assert found.stated is None and found.icc == profile and any("gAMA, cHRM not kept" in note for note in notes)
    _, found, _ = enlarged(tmp_path, as_png((b"sRGB", b"\0"), (b"cHRM", ADOBE)), "png")
    assert found.stated.is_srgb


def test_luma_and_chroma_in_a_png_are_refused(tmp_path):
    with pytest.raises(ImageError, match="cICP 9/16/9/0"):
        enlarged(tmp_path, as_png((b"cICP", bytes([9, 16, 9, 0]))), "png")


@pytest.mark.parametrize("adobe", [True, False])
def test_adobes_marker(tmp_path, adobe):
    """RGB without luma and chroma is read as such; CMYK without the marker may be inverted or not."""
    image = Image.fromarray(SMOOTH)
    _, found, _ = enlarged(tmp_path, saved(image, "JPEG", quality=97, keep_rgb=True), "png")
    assert np.abs((found.rgb[0].movedim(0, -1) * 255).numpy() - SMOOTH).mean() < 2
    data = saved(image.convert("CMYK"), "JPEG", quality=97)
    if adobe:
        _, found, notes = enlarged(tmp_path, data, "png")
        assert "CMYK converted to sRGB" in notes
        return
    at = data.find(b"\xff\xee")
    with pytest.raises(ImageError, match="CMYK.*Adobe"):
        enlarged(tmp_path, data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :], "png")


def photoshop(iptc):
    block = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(block) + 2) + block


IPTC = b"\x1c\x02\x78\x00\x07caption"


@pytest.mark.parametrize("suffix", FORMATS)
def test_dpi_iptc_and_comment_are_kept_or_named(tmp_path, suffix):
    data = saved(Image.fromarray(SMOOTH), "JPEG", dpi=(300, 150), comment=b"hello", extra=photoshop(IPTC))
    out, _, notes = enlarged(tmp_path, data, suffix)
    with Image.open(out) as image:
        main = image.getexif()
        dpi = image.info.get("dpi") or (main[282], main[283])
        assert tuple(round(float(value)) for value in dpi) == (300, 150)
        comment = image.info.get("comment") or image.info.get("Comment", "").encode()
    again = read_picture(out)
    said = " ".join(notes)
    assert (again.iptc == IPTC) != ("IPTC" in said)
    assert (comment == b"hello") != ("comment" in said)
    assert tuple(round(value) for value in again.dpi) == (300, 150)


def test_iptc_stored_as_whole_numbers_of_four(tmp_path):
    padded = IPTC + bytes(-len(IPTC) % 4)
    numbers = struct.unpack(f"<{len(padded) // 4}I", padded)
    data = tiff(SMOOTH, byteorder="<", extratags=[(33723, 4, len(numbers), numbers, True)])
    out, found, _ = enlarged(tmp_path, data, "jpg")
    assert found.iptc == padded and Image.open(out).info["photoshop"][0x0404].startswith(IPTC)


TEXTS = {
    "parameters": "a tree\nSteps: 40",
    "prompt": '{"1": {}}',
    "workflow": '{"nodes": []}',
    "Title": "caf\u00e9 \u6728",
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_texts_of_other_generators(tmp_path, suffix):
    stale = [text_chunk("Thumb::Image::Width", "20"), text_chunk("Raw profile type exif", "\nexif\n 1\n00")]
    data = as_png(*(text_chunk(key, text) for key, text in TEXTS.items()), *stale)
    out, found, notes = enlarged(tmp_path, data, suffix)
    if suffix == "png":
        assert {key: Image.open(out).text[key] for key in TEXTS} == TEXTS
        assert b"Thumb::" not in out.read_bytes()
    else:
        assert any("parameters, prompt, workflow" in note for note in notes)


def test_a_profile_and_texts_over_a_mebibyte_are_read_and_written(tmp_path):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile += np.random.default_rng(0).bytes(1_400_000)
    profile[:4] = struct.pack(">I", len(profile))
    long = (text_chunk("parameters", "x" * 3_000_000), (b"zTXt", b"old\0\0" + zlib.compress(b"y" * 2_000_000)))
    out, found, _ = enlarged(tmp_path, as_png((b"iCCP", b"p\0\0" + zlib.compress(bytes(profile))), *long), "png")
    assert found.icc == bytes(profile) and len(dict(found.texts)["old"]) == 2_000_000
    again = read_picture(out)
    assert again.icc == found.icc and again.texts == found.texts
    out, _, _ = enlarged(tmp_path, out.read_bytes(), "jpg")
    assert read_picture(out).icc == found.icc
    out, _, _ = enlarged(tmp_path, as_png(*long), "png")
    assert len(Image.open(out).text["parameters"]) == 3_000_000  # within Pillow's own limits


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "chunk", [(b"zTXt", b"k\0\0" + zlib.compress(bytes(90_000_000))), (b"iCCP", b"p\0\0junk"), (b"zTXt", b"k\0\0junk")]
)
def test_what_stands_beside_the_pixels_never_costs_them(tmp_path, chunk, depth):
    write_picture(tmp_path / "good.png", Picture(torch.rand(1, 3, 8, 8), depth=depth))
    (tmp_path / "a.png").write_bytes(with_chunks((tmp_path / "good.png").read_bytes(), [chunk]))
    found = read_picture(tmp_path / "a.png")
    assert torch.equal(found.rgb, read_picture(tmp_path / "good.png").rgb)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_what_reads_back_otherwise_never_takes_the_name(tmp_path, monkeypatch, suffix):
    from op4ksr_core.picture import write

    out = tmp_path / f"a.{suffix}"
    write_picture(out, Picture(torch.rand(1, 3, 8, 8)))
    before = out.read_bytes()
    kind = format_of(out).name
    real = write._ENCODERS[kind]
    monkeypatch.setitem(write._ENCODERS, kind, lambda array, *rest: real(array[:, : array.shape[1] // 2], *rest))
    with pytest.raises(OutputError, match=rf"a\.{suffix} .*4x8 px|a\.{suffix} .*cannot be read again"):
        write_picture(out, Picture(torch.rand(1, 3, 8, 8)))
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [out.name]


GOOD = torch.rand(1, 3, 4, 5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rgb": GOOD * float("nan")}, "NaN"),
        ({"rgb": GOOD / 0}, "infinity"),
        ({"rgb": GOOD[0]}, r"\[3, 4, 5\]"),
        ({"rgb": GOOD[:0]}, r"\[0, 3, 4, 5\]"),
        ({"rgb": GOOD[..., :0]}, r"\[1, 3, 4, 0\]"),
        ({"rgb": GOOD.expand(2, -1, -1, -1)}, r"\[2, 3, 4, 5\]"),
        ({"rgb": GOOD[:, :1]}, r"\[1, 1, 4, 5\]"),
        ({"rgb": (GOOD * 255).byte()}, "uint8"),
        ({"rgb": GOOD.numpy()}, "ndarray"),
        ({"alpha": GOOD[:, :1, :2]}, r"alpha.*\[1, 1, 2, 5\].*\[1, 3, 4, 5\]"),
        ({"alpha": GOOD}, r"alpha.*\[1, 3, 4, 5\]"),
        ({"icc": "text"}, "icc.*got str"),
        *(({"depth": depth}, f"with {depth}") for depth in (1, 4, 10, 0, -8, 8.0, True, None)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_what_is_no_picture_is_refused_at_the_door(tmp_path, wrong, words, suffix):
    with pytest.raises((ImageError, SettingError), match=words):
        write_picture(tmp_path / f"a.{suffix}", Picture(**{"rgb": GOOD, **wrong}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("depth", [8, 16])
def test_every_floating_type_is_written(tmp_path, dtype, depth):
    write_picture(tmp_path / "a.png", Picture(GOOD.to(dtype), depth=depth))
    torch.testing.assert_close(read_picture(tmp_path / "a.png").rgb, GOOD, atol=6e-3, rtol=0)


@pytest.mark.parametrize("options", [{"quality": 95.5}, {"quality": "95"}, {"compression": float("nan")}])
def test_save_options_of_the_wrong_type(options):
    with pytest.raises(SettingError, match=re.escape(repr(next(iter(options.values()))))):
        SaveOptions(**options)


def test_a_raw_files_preview_is_not_taken_for_it(tmp_path):
    data = tiff(SMOOTH, extratags=[(50706, 1, 4, bytes([1, 4, 0, 0]), True)])
    with pytest.raises(ImageError, match="raw file"):
        enlarged(tmp_path, data, "png")
