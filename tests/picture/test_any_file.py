"""Any file that Pillow writes, with any EXIF, XMP and profile: the result opens in a second library, and is right."""

import io
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import torch
from hypothesis import given, reject, seed, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from op4ksr_core.errors import ImageError, OutputError
from op4ksr_core.files import format_of
from op4ksr_core.geometry import Size
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.picture.write import SaveOptions, check_writable, write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
STRUCTURE = {256: 7, 257: 9, 258: 8, 259: 5, 262: 3, 273: 8, 277: 4, 278: 3, 279: 99, 284: 2, 317: 2, 320: (1, 2, 3)}
STRUCTURE |= {322: 16, 323: 16, 324: 8, 325: 77, 338: 2, 339: 3, 513: 8, 514: 9}
TEXTS = {270: "a caption", 271: "Maker", 272: "Model", 305: "Program", 315: "caf\u00e9".encode(), 33432: "(c) me"}
MODES = {
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
}
COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "jpeg"]


@st.composite
def exifs(draw):
    exif = Image.Exif()
    for tag in draw(st.lists(st.sampled_from(sorted(STRUCTURE)), unique=True)):
        exif[tag] = STRUCTURE[tag]
    for tag in draw(st.lists(st.sampled_from(sorted(TEXTS)), unique=True)):
        exif[tag] = TEXTS[tag]
    if draw(st.booleans()):
        exif[0x0112] = draw(st.integers(0, 9))
    if draw(st.booleans()):
        exif[0x8769] = {0xA002: draw(st.integers(0, 9999)), 0xA003: 5, 0x9286: draw(st.binary(max_size=40))}
    return exif


@st.composite
def packets(draw):
    orientation = draw(st.sampled_from(["", 'tiff:Orientation="6"', 'tiff:Orientation="1" tiff:ImageWidth="3"']))
    title = draw(
        st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="<>&\"'"), max_size=9)
    )
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        f'{orientation} dc:title="{title}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


@st.composite
def files(draw):
    """(format, bytes) of a smooth picture."""
    kind = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    image = smooth(draw(st.integers(8, 33)), draw(st.integers(8, 33)), mode)
    options = {"exif": draw(exifs())} if kind != "TIFF" or draw(st.booleans()) else {}
    options |= {"icc_profile": PROFILE} if mode in ("RGB", "RGBA") and draw(st.booleans()) else {}
    options |= {"dpi": (draw(st.integers(1, 2400)), 300)} if draw(st.booleans()) else {}
    if kind == "TIFF":
        allowed = [name for name in COMPRESSIONS if fits(name, mode)]
        options["compression"] = draw(st.sampled_from(allowed))
        if "exif" in options:
            options["exif"] = without_structure(options["exif"])
    elif kind == "JPEG":
        options |= {"quality": 95, "progressive": draw(st.booleans()), "subsampling": draw(st.integers(0, 2))}
    elif kind == "WEBP":
        options |= {"lossless": draw(st.booleans()), "quality": 95}
    if kind in ("JPEG", "WEBP") and draw(st.booleans()):
        options["xmp"] = draw(packets())
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except (RuntimeError, OSError):  # libtiff takes not every tag
        reject()
    return kind, buffer.getvalue()


def without_structure(exif):
    """Pillow would write a broken source."""
    for tag in STRUCTURE:
        exif.pop(tag, None)
    return exif.tobytes()


def fits(compression, mode):
    if compression == "group4":
        return mode == "1"
    return compression != "jpeg" or mode in ("L", "RGB", "CMYK", "YCbCr")


def smooth(width, height, mode):
    down, across = np.mgrid[0:height, 0:width] / max(width, height)
    planes = np.stack([40 + 150 * across, 60 + 150 * down, 200 - 100 * across, 255 - 100 * down], -1)
    image = Image.fromarray(planes.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((planes[..., 0] * 257).astype(np.uint16))
    if mode in ("LA", "RGBA"):
        return image.convert(mode)
    return image.convert("RGB").quantize(64) if mode == "P" else image.convert("RGB").convert(mode)


def decoded(data):
    """Upright RGB in 0 to 255 by Pillow, as a viewer shows it."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            return np.repeat((np.asarray(image, float) / 257)[..., None], 3, -1)
        return np.asarray(image.convert("RGBA").convert("RGB") if "A" in image.mode else image.convert("RGB"), float)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_the_result_opens_in_a_second_library_and_is_right(tmp_path, suffix):
    """Size, depth, and pixels: those that a viewer shows of the source, enlarged by Lanczos."""
    source, out = tmp_path / "source", tmp_path / f"out.{suffix}"

    @seed(1)
    @settings(max_examples=150, deadline=None, database=None)
    @given(files())
    def one(file):
        kind, data = file
        source.write_bytes(data)
        try:
            found = read_picture(source)
            target = Size(2 * found.rgb.shape[-2], 2 * found.rgb.shape[-1])
            alpha = None if found.alpha is None else lanczos(found.alpha, target)
            larger = replace(found, rgb=lanczos(found.rgb, target), alpha=alpha)
            check_writable(larger, target.height, target.width, format_of(out))
        except (ImageError, OutputError) as error:
            assert "source" in str(error) or "transparency" in str(error), (kind, error)
            return
        write_picture(out, larger, SaveOptions(lossless=True))
        written = out.read_bytes()
        second = imagecodecs.imread(written)
        deep = found.depth == 16 and suffix in ("png", "tif")
        assert second.dtype == (np.uint16 if deep else np.uint8)
        assert second.shape[:2] == (target.height, target.width)
        viewed = torch.from_numpy(decoded(data) / 255).float().permute(2, 0, 1)[None]
        wanted = lanczos(viewed, target).clamp(0, 1)[0].permute(1, 2, 0).numpy()
        got = np.atleast_3d(second)[..., :3].astype(float) / np.iinfo(second.dtype).max
        got = got[..., :1] if got.shape[-1] < 3 else got
        assert np.abs(got - wanted).mean() * 255 < 3, kind
        assert np.abs(decoded(written) / 255 - wanted).mean() * 255 < 3, kind

    one()
