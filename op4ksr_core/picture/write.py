"""Picture files out: PNG, JPEG, WebP and TIFF, 8 or 16 bits, whole or not at all."""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import OutputError, SettingError
from ..files import format_of, write_atomically
from .deep import png_module, tifffile_module
from .read import Picture
from .tiff import TEXT_TAGS

_MAX_SIDE = {"jpg": 65_535, "webp": 16_383}
_MAX_JPEG_XMP = 65_000


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


def check_writable(
    picture: Picture, height: int, width: int, file_format: str, transparent: bool = False
) -> tuple[str, ...]:
    """What the format would lose, as notes. Raises OutputError for what it cannot hold at all.

    `transparent`: the result has an alpha channel although the picture has none.
    """
    limit = _MAX_SIDE.get(file_format)
    if limit and max(height, width) > limit:
        raise OutputError(f"{file_format} holds at most {limit} px a side, not {width}x{height}. Write png or tiff.")
    if (picture.alpha is not None or transparent) and file_format == "jpg":
        raise OutputError("JPEG holds no transparency and the result has some. Write png, webp or tiff.")
    lost = []
    if picture.depth == 16 and file_format in ("jpg", "webp"):
        lost.append(f"16 bits reduced to 8 ({file_format} holds no more)")
    deep_tiff = picture.depth == 16 and file_format == "tiff"
    if deep_tiff and picture.exif and set(_exif(picture.exif)) - set(TEXT_TAGS):
        lost.append("of EXIF only the texts kept (16-bit TIFF)")
    if picture.xmp and file_format == "jpg" and len(picture.xmp) > _MAX_JPEG_XMP:
        lost.append(f"XMP of {len(picture.xmp)} bytes not kept (JPEG holds {_MAX_JPEG_XMP})")
    return tuple(lost)


def write_picture(path: Path, picture: Picture, options: SaveOptions = SaveOptions()) -> None:
    """Writes the file whole or not at all. Raises OutputError as `check_writable` and `write_atomically` do."""
    file_format = format_of(path)
    height, width = picture.rgb.shape[-2:]
    check_writable(picture, height, width, file_format)
    whole = io.BytesIO()  # encoders hide why a disk took no more
    _encode(whole, picture, file_format, options)
    write_atomically(path, lambda file: file.write(whole.getbuffer()))


def _encode(file: BinaryIO, picture: Picture, file_format: str, options: SaveOptions) -> None:
    depth = picture.depth if file_format in ("png", "tiff") else 8
    array = _to_array(picture, depth)
    if depth == 16 and (array.ndim == 3 or file_format == "tiff"):
        _encode_deep(file, array, picture, file_format, options)
        return
    extra: dict = {"icc_profile": picture.icc} if picture.icc else {}
    if picture.exif:
        extra["exif"] = picture.exif
    if picture.xmp and (file_format == "webp" or (file_format == "jpg" and len(picture.xmp) <= _MAX_JPEG_XMP)):
        extra["xmp"] = picture.xmp
    if picture.xmp and file_format == "png":
        extra["pnginfo"] = PngInfo()
        extra["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    if picture.xmp and file_format == "tiff":
        texts = _exif(picture.exif)
        texts[700] = picture.xmp
        extra["exif"] = texts
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


def _exif(block: bytes | None) -> Image.Exif:
    found = Image.Exif()
    if block:
        found.load(block)
    return found


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
        texts = _exif(picture.exif)
        tags: list = [(code, 2, 0, str(texts[code]), True) for code in TEXT_TAGS if code in texts]
        if picture.xmp:
            tags.append((700, 1, len(picture.xmp), picture.xmp, True))
        tifffile_module().imwrite(
            file,
            array,
            photometric=photometric,
            extrasamples=extra,
            compression="zlib",
            iccprofile=picture.icc,
            extratags=tags,
            metadata=None,
            software=False,
        )
        return
    png = png_module()
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
    if picture.xmp:
        chunks.insert(1, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    png.write_chunks(file, chunks)
