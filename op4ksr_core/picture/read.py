"""Picture files in: any common mode, 8 or 16 bits, alpha, EXIF orientation, ICC profile."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import ImageError
from ..files import READABLE
from .deep import png_module, tifffile_module

_ORIENTATION = 0x0112


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


def read_picture(path: str | Path) -> Picture:
    """Reads one picture. Raises ImageError that says what is wrong with the file."""
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes).")
        deep = _deep_tiff(path)
        if deep is not None:
            return deep
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                frames = getattr(opened, "n_frames", 1)
                picture = _decode(path, opened)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is too large to read safely ({error}).") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture that can be read (wanted {', '.join(READABLE)}).") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {error}. It may be damaged or cut short.") from error
    notes = (f"first of {frames} frames",) if frames > 1 else ()
    return replace(picture, notes=picture.notes + notes)


def _decode(path: Path, opened: Image.Image) -> Picture:
    opened.load()
    upright = ImageOps.exif_transpose(opened)
    orientation = opened.getexif().get(_ORIENTATION, 1)
    exif = upright.getexif()
    exif.pop(_ORIENTATION, None)
    icc, kept = opened.info.get("icc_profile"), exif.tobytes() if len(exif) else None
    if opened.mode.startswith("I") or _is_deep(path, opened):
        return _from_array(_orient(_deep_array(path, opened), orientation), 16, icc, kept)
    if opened.mode == "F":
        raise ImageError(f"{path} holds floating-point pixels; convert it to 8 or 16 bits per channel.")
    image = upright
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        return _from_array(np.asarray(_to_srgb(image, icc)), 8, None, kept, (f"{image.mode} converted to sRGB",))
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La") and not (image.mode == "L" and "transparency" in image.info)
    image = image.convert(("LA" if transparent else "L") if grey else ("RGBA" if transparent else "RGB"))
    return _from_array(np.asarray(image), 8, icc, kept)


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """A print or video colour space to sRGB, through the picture's own profile where it has one."""
    if icc and image.mode in ("CMYK", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except ImageCms.PyCMSError as error:
            raise ImageError(f"The colour profile cannot be applied ({error}); convert the picture to sRGB.") from error
    return image.convert("RGB")


def _is_deep(path: Path, opened: Image.Image) -> bool:
    """Whether a file with several channels holds 16 bits each, which Pillow would cut to 8 without a word."""
    if opened.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] == 16 and opened.mode in ("RGB", "RGBA", "LA")
    bits = opened.tag_v2.get(258, (8,)) if opened.format == "TIFF" else (8,)  # type: ignore[attr-defined]
    return max(bits) == 16 and len(bits) > 1


def _deep_array(path: Path, opened: Image.Image) -> np.ndarray:
    """(H, W) or (H, W, C) of 16-bit values."""
    if opened.mode.startswith("I"):
        array = np.asarray(opened)
        if array.min() < 0 or array.max() > 65_535:
            raise ImageError(f"{path} holds values outside 0..65535; convert it to 16 bits.")
        return array.astype(np.uint16)
    if opened.format == "TIFF":
        tifffile_module()  # reads these before Pillow is asked; says how to install it where it is missing
    width, height, rows, info = png_module().Reader(filename=str(path)).read()
    return np.vstack([np.frombuffer(row, np.uint16) for row in rows]).reshape(height, width, info["planes"])


def _deep_tiff(path: Path) -> Picture | None:
    """A TIFF of several channels with 16 bits each, which Pillow cannot read; None for any other file."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        import tifffile
    except ImportError:
        return None  # Pillow reads what has 8 bits; what has 16 is refused there with the package's name
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            if page.bitspersample != 16 or page.samplesperpixel < 2 or page.dtype != np.uint16:
                return None
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if page.planarconfig == 2 else array
            orientation = page.tags[274].value if 274 in page.tags else 1
            profile = page.tags[34675].value if 34675 in page.tags else None
            return _from_array(_orient(array, int(orientation)), 16, profile, None)
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, struct.error, zlib.error) as error:
        raise ImageError(f"{path} cannot be read: {error}. It may be damaged or cut short.") from error


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array as EXIF's orientation 1..8 asks."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if orientation in (3, 4, 7, 8) else array


def _from_array(
    array: np.ndarray, depth: int, icc: bytes | None, exif: bytes | None, notes: tuple[str, ...] = ()
) -> Picture:
    values = torch.from_numpy(np.atleast_3d(array).astype(np.float32) / (2**depth - 1))
    planes = rearrange(values, "h w c -> 1 c h w")
    channels = planes.shape[1]
    colour = planes[:, : 3 if channels >= 3 else 1]
    alpha = planes[:, -1:] if channels in (2, 4) else None
    rgb = colour.expand(-1, 3, -1, -1).contiguous()
    return Picture(rgb, alpha, channels < 3, depth, icc, exif, notes)
