"""Picture files in: any common mode, 8 or 16 bits, alpha, EXIF orientation, ICC profile, XMP.

Pillow reads 8 bits; 16 bits come through pypng and tifffile, which keep all of them and say what a channel means. What
would come out wrong is refused by name. (pyvips and OpenCV read both, and drop keys, profiles or extra channels.)
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageCms
from torch import Tensor

from ..errors import ImageError
from .deep import png_module
from .header import MAX_MEGAPIXELS, check_png_data, opened, orientation_of, read_header, readable
from .orientation import ORIENTATION, orient
from .tiff import read_tiff

_PROFILE_MARK = slice(36, 40)


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright. rgb (1, 3, H, W) and alpha (1, 1, H, W) or None, float32 in [0, 1]."""

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    xmp: bytes | None = None


def read_picture(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Reads one picture; its header first. Raises ImageError that says what is wrong with the file."""
    path = Path(path)
    header = read_header(path, max_megapixels)
    with readable(path):
        if header.kind == "png":
            check_png_data(path)
        if header.kind == "png" and header.bits == 16:
            return _deep_png(path)
        if header.kind == "tiff":
            if header.bits > 8:
                _require_tifffile()
            found = _tiff(path)
            if found is not None:
                return found
        with opened(path) as image:
            return _decode(path, image)


def _require_tifffile() -> None:
    from .deep import tifffile_module

    tifffile_module()


def _decode(path: Path, image: Image.Image) -> Picture:
    """Through Pillow."""
    image.load()
    frames = getattr(image, "n_frames", 1)
    notes = [f"first of {frames} frames"] if frames > 1 else []
    orientation = orientation_of(image)
    exif, icc, xmp = _kept(image, notes)
    if image.mode.startswith("I;16"):
        grey = orient(np.asarray(image).astype(np.uint16), orientation)
        return _from_array(grey, None, 16, icc, exif, tuple(notes), xmp)
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        raise ImageError(f"{path} holds {image.mode} pixels of 32 bits; convert it to 8 or 16 bits per channel.")
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"{image.mode} converted to sRGB")
        image, icc = _to_srgb(image, icc), None
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    grey_too = image.mode in ("1", "L", "LA", "La") and not (image.mode == "L" and "transparency" in image.info)
    image = image.convert(("LA" if transparent else "L") if grey_too else ("RGBA" if transparent else "RGB"))
    array = np.atleast_3d(orient(np.asarray(image), orientation))
    colour, alpha = (array[..., :-1], array[..., -1]) if transparent else (array, None)
    return _from_array(colour, alpha, 8, icc, exif, tuple(notes), xmp)


def _kept(image: Image.Image, notes: list[str]) -> tuple[bytes | None, bytes | None, bytes | None]:
    """EXIF without its orientation, ICC profile and XMP, each left out with a note where it is damaged."""
    exif = None
    if image.info.get("exif") or image.getexif():
        exif = _whole_exif(image)
        if exif is None:
            notes.append("the EXIF data is damaged and left out")
    icc = _whole_profile(image.info.get("icc_profile"), notes)
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return exif, icc, xmp.encode() if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) else None


def _whole_exif(image: Image.Image) -> bytes | None:
    """The EXIF block, if it can be written and read again; b"" where nothing is left of it."""
    try:
        exif = image.getexif()
        exif.pop(ORIENTATION, None)
        data = exif.tobytes() if len(exif) else b""
        again = Image.Exif()
        again.load(data)
        again.tobytes()
    except Exception:  # damaged EXIF can fail in any way
        return None
    return data


def _whole_profile(icc: bytes | None, notes: list[str]) -> bytes | None:
    """A colour profile with the mark that each has."""
    if icc and icc[_PROFILE_MARK] != b"acsp":
        notes.append("the colour profile is damaged and left out")
        return None
    return icc or None


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


def _deep_png(path: Path) -> Picture:
    """16 bits through pypng, a transparent colour as alpha; EXIF, profile and XMP through Pillow."""
    with opened(path) as image:
        orientation = orientation_of(image)
        notes: list[str] = []
        exif, icc, xmp = _kept(image, notes)
    width, height, rows, info = png_module().Reader(filename=str(path)).asDirect()
    planes = info["planes"]
    flat = np.concatenate([np.asarray(row, np.uint16) for row in rows])
    array = orient(flat.reshape(height, width, planes), orientation)
    colour, alpha = (array[..., :-1], array[..., -1]) if planes in (2, 4) else (array, None)
    return _from_array(colour, alpha, 16, icc, exif, tuple(notes), xmp)


def _tiff(path: Path) -> Picture | None:
    """None for what Pillow is to read, and where tifffile is missing."""
    try:
        import tifffile  # noqa: F401
    except ImportError:
        return None
    found = read_tiff(path)
    if found is None:
        return None
    notes = list(found.notes)
    icc = _whole_profile(found.icc, notes)
    exif = Image.Exif()
    for code, text in found.texts.items():
        exif[code] = text
    kept = exif.tobytes() if found.texts else None
    return _from_array(found.colour, found.alpha, found.bits, icc, kept, tuple(notes), found.xmp)


def _from_array(
    colour: np.ndarray,
    alpha: np.ndarray | None,
    depth: int,
    icc: bytes | None,
    exif: bytes | None,
    notes: tuple[str, ...],
    xmp: bytes | None,
) -> Picture:
    """colour (H, W) or (H, W, 1 or 3), alpha (H, W)."""

    def plane(values: np.ndarray) -> Tensor:
        scaled = torch.from_numpy(np.atleast_3d(values).astype(np.float32) / (2**depth - 1))
        return rearrange(scaled, "h w c -> 1 c h w")

    rgb = plane(colour)
    opacity = None if alpha is None else plane(alpha)
    grey = rgb.shape[1] == 1
    return Picture(rgb.expand(-1, 3, -1, -1).contiguous(), opacity, grey, depth, icc, exif or None, notes, xmp)
