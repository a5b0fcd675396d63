"""Picture files in and out: any common mode, 8 or 16 bits, alpha, EXIF orientation, ICC profile."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import ImageError, OutputError, SettingError
from .colour import low_band

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""Formats that can be written, with the suffix of a new file."""

_FORMAT_OF = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_MAX_SIDE = {"jpg": 65_535, "webp": 16_383}
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


@dataclass(frozen=True)
class SaveOptions:
    """quality 1..100 for JPEG and WebP; lossless for WebP; compression 0..9 for PNG."""

    quality: int = 95
    lossless: bool = False
    compression: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise SettingError(f"Quality must lie in 1 to 100, got {self.quality}.")
        if not 0 <= self.compression <= 9:
            raise SettingError(f"PNG compression must lie in 0 to 9, got {self.compression}.")


def format_of(path: Path) -> str:
    """The format that a file name asks for. Raises OutputError on an unknown suffix."""
    try:
        return _FORMAT_OF[path.suffix.lower()]
    except KeyError:
        raise OutputError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {', '.join(_FORMAT_OF)}."
        ) from None


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
        _tifffile()  # reads these before Pillow is asked; says how to install it where it is missing
    width, height, rows, info = _png().Reader(filename=str(path)).read()
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


_DEEP = (
    "Colour pictures of 16 bits per channel need the packages pypng and tifffile: pip install 'op4ksr[cli]', "
    "or convert the picture to 8 bits."
)


def _tifffile():  # noqa: ANN202
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(_DEEP) from error
    return tifffile


def _png():  # noqa: ANN202
    try:
        import png
    except ImportError as error:
        raise ImageError(_DEEP) from error
    return png


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


def fill_hidden(picture: Picture) -> Tensor:
    """The RGB with wholly transparent pixels taking the colour of the visible ones around them.

    What hides under alpha 0 is often black; upscaled as it is, it would bleed into the edge.
    """
    if picture.alpha is None or bool((picture.alpha > 0).all()):
        return picture.rgb
    weight = low_band(picture.alpha)
    spread = low_band(picture.rgb * picture.alpha) / weight.clamp(min=1e-6)
    hidden = (picture.alpha == 0) & (weight > 1e-6)
    return torch.where(hidden, spread, picture.rgb).clamp(0, 1)


def check_writable(picture: Picture, height: int, width: int, file_format: str) -> tuple[str, ...]:
    """What the format would lose, as notes. Raises OutputError for what it cannot hold at all."""
    limit = _MAX_SIDE.get(file_format)
    if limit and max(height, width) > limit:
        raise OutputError(f"{file_format} holds at most {limit} px a side, not {width}x{height}. Write png or tiff.")
    if picture.alpha is not None and file_format == "jpg":
        raise OutputError("JPEG holds no transparency and this picture has some. Write png, webp or tiff.")
    lost = []
    if picture.depth == 16 and file_format in ("jpg", "webp"):
        lost.append(f"16 bits reduced to 8 ({file_format} holds no more)")
    if picture.depth == 16 and not picture.grey and picture.exif and file_format == "tiff":
        lost.append("EXIF not kept (16-bit colour TIFF)")
    return tuple(lost)


def write_picture(path: Path, picture: Picture, options: SaveOptions = SaveOptions()) -> None:
    """Writes the file whole or not at all. Raises OutputError as `check_writable` and `write_atomically` do."""
    file_format = format_of(path)
    height, width = picture.rgb.shape[-2:]
    check_writable(picture, height, width, file_format)
    write_atomically(path, lambda file: _encode(file, picture, file_format, options))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a file beside `path` and moves it there once it is whole and on disk.

    Raises OutputError with the reason (no space, no permission); the half-written file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises OutputError."""
    write_atomically(path, lambda file: file.write(text.encode()))


def pictures_below(folder: Path) -> list[Path]:
    """Every picture file in a folder and its subfolders, sorted; hidden files are left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in READABLE and path.name[0] != ".")
    return sorted(path for path in files if path.is_file())


def _encode(file: BinaryIO, picture: Picture, file_format: str, options: SaveOptions) -> None:
    depth = picture.depth if file_format in ("png", "tiff") else 8
    array = _to_array(picture, depth)
    if depth == 16 and array.ndim == 3:
        _encode_deep(file, array, picture, file_format, options)
        return
    extra: dict = {"icc_profile": picture.icc} if picture.icc else {}
    if picture.exif:
        extra["exif"] = picture.exif
    if file_format == "jpg":
        extra |= {"quality": options.quality, "subsampling": 0}
    elif file_format == "webp":
        extra |= {"quality": options.quality, "lossless": options.lossless, "method": 4, "exact": True}
    elif file_format == "png":
        extra |= {"compress_level": options.compression}
    else:
        extra |= {"compression": "tiff_deflate"}
    name = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG", "tiff": "TIFF"}[file_format]
    Image.fromarray(array).save(file, name, **extra)


def _to_array(picture: Picture, depth: int) -> np.ndarray:
    """(H, W) for grey, else (H, W, C); rounded to the depth's integers."""
    colour = picture.rgb.mean(1, keepdim=True) if picture.grey else picture.rgb
    planes = colour if picture.alpha is None else torch.cat([colour, picture.alpha], 1)
    array = rearrange(planes[0].clamp(0, 1), "c h w -> h w c").mul(2**depth - 1).round().numpy()
    array = array.astype(np.uint16 if depth == 16 else np.uint8)
    return array[..., 0] if array.shape[-1] == 1 else array


def _encode_deep(file: BinaryIO, array: np.ndarray, picture: Picture, file_format: str, options: SaveOptions) -> None:
    """16 bits per channel with several channels: pypng and tifffile, Pillow has no such mode."""
    if file_format == "tiff":
        photometric = "minisblack" if picture.grey else "rgb"
        extra = ["unassalpha"] if picture.alpha is not None else None
        _tifffile().imwrite(
            file, array, photometric=photometric, extrasamples=extra, compression="zlib", iccprofile=picture.icc
        )
        return
    png = _png()
    height, width, channels = array.shape
    buffer = io.BytesIO()
    writer = png.Writer(
        width, height, bitdepth=16, greyscale=picture.grey, alpha=channels in (2, 4), compression=options.compression
    )
    writer.write_packed(buffer, (row.tobytes() for row in array.astype(">u2")))
    buffer.seek(0)
    chunks = list(png.Reader(file=buffer).chunks())
    if picture.icc:
        chunks.insert(1, (b"iCCP", b"profile\0\0" + zlib.compress(picture.icc)))
    if picture.exif:
        chunks.insert(1, (b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    png.write_chunks(file, chunks)
