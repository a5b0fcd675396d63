"""Picture files in: any common mode, 8 or 16 bits, alpha, orientation, colour profile and what else a file says.

Pillow reads 8 bits; 16 bits come through pypng, TIFF through tifffile with imagecodecs: they keep all bits and
say what a channel means. What would come out wrong is refused by name.
(docs/lab/picture-libraries.md: the libraries that were tried.)
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageCms
from torch import Tensor

from ..errors import ImageError
from ..geometry import Part, Size
from .colour_space import StatedColour, coded_as_srgb
from .deep import png_module
from .facts import Facts, facts_of
from .header import (
    MAX_MEGAPIXELS,
    Header,
    check_png_data,
    opened,
    orientation_of,
    png_orientation,
    read_header,
    readable,
)
from .orientation import orient, stored, upright
from .png_chunks import pixels_alone
from .tiff import read_tiff

_CONVERTED = ("CMYK", "LAB", "YCbCr", "HSV")


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright. rgb (1, 3, H, W) and alpha (1, 1, H, W) or None, float32 in [0, 1].

    grey: its three channels are equal, and it is written as one. depth: bits per channel, 8 or 16. notes: what was
    converted or left out. The rest as in `facts.Facts`.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    dpi: tuple[float, float] | None = None
    stated: StatedColour | None = None


def read_picture(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS, part: Part | None = None) -> Picture:
    """Reads one picture; its header first. Of a `part` of the upright picture alone, no more than that is converted.

    Raises ImageError that says what is wrong with the file, or that the part does not lie within the picture.
    """
    path = Path(path)
    header = read_header(path, max_megapixels)
    if part is not None:
        _check_part(path, part, header.size)
    with readable(path):
        if header.kind == "png":
            check_png_data(path)
            return _png(path, header, part)
        if header.kind == "tiff":
            return _tiff(path, part)
        with opened(path) as image:
            image.load()
            notes: list[str] = []
            facts = facts_of(path, image, notes, image.mode in _CONVERTED)
            return _decode(path, image, orientation_of(image), facts, notes, part)


def _check_part(path: Path, part: Part, size: Size) -> None:
    if part.top + part.height > size.height or part.left + part.width > size.width:
        raise ImageError(f"{path} is {size} px, and {part} does not lie within it.")


def _png(path: Path, header: Header, part: Part | None) -> Picture:
    """A damaged or huge text, profile or EXIF is left out with a note and never costs the pixels."""
    try:
        with opened(path) as image:
            notes: list[str] = []
            facts = facts_of(path, image, notes)
            if header.bits == 16:
                return _deep_png(path.read_bytes, orientation_of(image), facts, notes, part)
            image.load()
            return _decode(path, image, orientation_of(image), facts, notes, part)
    except ImageError:
        raise
    except Exception:  # a damaged chunk can fail in any way; damaged pixels fail again
        notes = ["what stands beside the pixels (texts, profile, EXIF) is damaged or too large, and left out"]
        if header.bits == 16:
            return _deep_png(lambda: pixels_alone(path), png_orientation(path), Facts(), notes, part)
        with opened(io.BytesIO(pixels_alone(path))) as image:
            image.load()
            return _decode(path, image, png_orientation(path), Facts(), notes, part)


def _decode(
    path: Path, image: Image.Image, orientation: int, facts: Facts, notes: list[str], part: Part | None
) -> Picture:
    """Pillow's picture, loaded."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "TIFF":
        notes.append(f"first of {frames} frames")
    deep = image.mode.startswith("I;16")
    if image.mode in ("F", "I") or (image.mode.startswith("I;") and not deep):
        raise ImageError(f"{path} holds {image.mode} pixels of 32 bits; convert it to 8 or 16 bits per channel.")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        raise ImageError(f"{path} is a CMYK JPEG without Adobe's marker: it may be inverted or not. Convert it to RGB.")
    if part is not None:
        image = _cropped(image, part, orientation)
    if deep:
        grey = orient(np.asarray(image).astype(np.uint16), orientation)
        return _from_array(grey, None, 16, facts, notes)
    if image.mode in _CONVERTED:
        notes.append(f"{image.mode} converted to sRGB")
        image = _to_srgb(image, image.info.get("icc_profile"))
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    grey_too = image.mode in ("1", "L", "LA", "La") and not (image.mode == "L" and "transparency" in image.info)
    image = image.convert(("LA" if transparent else "L") if grey_too else ("RGBA" if transparent else "RGB"))
    array = np.atleast_3d(orient(np.asarray(image), orientation))
    colour, alpha = (array[..., :-1], array[..., -1]) if transparent else (array, None)
    return _from_array(colour, alpha, 8, facts, notes)


def _cropped(image: Image.Image, part: Part, orientation: int) -> Image.Image:
    """A part of the upright picture, as it is stored."""
    size = upright(Size(image.height, image.width), orientation)
    place = stored(part, size, orientation)
    return image.crop((place.left, place.top, place.left + place.width, place.top + place.height))


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """A print or video colour space to sRGB, through the picture's own profile where it has a fitting one."""
    if icc and image.mode in ("CMYK", "LAB") and icc[16:20] in (b"CMYK", b"Lab "):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except ImageCms.PyCMSError as error:
            raise ImageError(f"The colour profile cannot be applied ({error}); convert the picture to sRGB.") from error
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    return image.convert("RGB")


def _deep_png(
    data: Callable[[], bytes], orientation: int, facts: Facts, notes: list[str], part: Part | None
) -> Picture:
    """16 bits through pypng, a transparent colour as alpha."""
    width, height, rows, info = png_module().Reader(bytes=data()).asDirect()
    planes = info["planes"]
    flat = np.concatenate([np.asarray(row, np.uint16) for row in rows])
    array = _cut(orient(flat.reshape(height, width, planes), orientation), part)
    colour, alpha = (array[..., :-1], array[..., -1]) if planes in (2, 4) else (array, None)
    return _from_array(colour, alpha, 16, facts, notes)


def _cut(array: np.ndarray, part: Part | None) -> np.ndarray:
    """A part of an upright array (H, W, ...)."""
    if part is None:
        return array
    return array[part.top : part.top + part.height, part.left : part.left + part.width]


def _tiff(path: Path, part: Part | None) -> Picture:
    """Through tifffile; through Pillow what that reads rightly."""
    found = read_tiff(path)
    if found.colour is not None:
        alpha = None if found.alpha is None else _cut(found.alpha, part)
        return _from_array(_cut(found.colour, part), alpha, found.bits, found.facts, list(found.notes))
    with opened(path) as image:
        image.seek(found.page)
        image.load()  # which turns a TIFF upright
        return _decode(path, image, orientation_of(image), found.facts, list(found.notes), part)


def _from_array(
    colour: np.ndarray, alpha: np.ndarray | None, depth: int, facts: Facts, notes: Sequence[str]
) -> Picture:
    """colour (H, W) or (H, W, 1 or 3), alpha (H, W). Linear colour is coded as sRGB, which the models know."""

    def plane(values: np.ndarray) -> Tensor:
        scaled = torch.from_numpy(np.atleast_3d(values).astype(np.float32) / (2**depth - 1))
        return rearrange(scaled, "h w c -> 1 c h w")

    rgb = plane(colour)
    opacity = None if alpha is None else plane(alpha)
    notes = list(notes)
    if facts.stated is not None and facts.stated.is_linear:
        rgb = coded_as_srgb(rgb)
        notes.append(f"linear light, {facts.stated}: converted to sRGB's curve")
        facts = replace(facts, stated=facts.stated.coded(), icc=None)
    elif facts.stated is not None and facts.stated.is_hdr:
        notes.append(f"{facts.stated}: kept, and enlarged as if it were sRGB")
    grey = rgb.shape[1] == 1
    return Picture(rgb.expand(-1, 3, -1, -1).contiguous(), opacity, grey, depth, notes=tuple(notes), **vars(facts))
