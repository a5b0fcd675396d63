"""Picture files out: PNG, JPEG, WebP and TIFF, 8 or 16 bits, whole or not at all, and read again before they count."""

import io
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..errors import ImageError, OutputError, SettingError
from ..files import format_of, write_atomically
from ..formats import Format
from ..geometry import Size
from .colour_space import profile_of
from .deep import png_module
from .exif import exif_block, exif_for
from .facts import Facts
from .header import read_header
from .png_chunks import UNPACKED_BY_ALL, text_chunk, with_chunks
from .read import Picture
from .tiff import encode_tiff

_MAX_MARKER = 65_533
_MAX_JPEG_XMP = 65_000
_MAX_JPEG_ICC = 255 * (_MAX_MARKER - 14)
_DEPTHS = (8, 16)
_PX_PER_METRE = 1 / 0.0254


@dataclass(frozen=True)
class SaveOptions:
    """quality 1..100 for JPEG and WebP; lossless for WebP; compression 0..9 for PNG."""

    quality: int = 95
    lossless: bool = False
    compression: int = 4

    def __post_init__(self) -> None:
        if not _is_whole(self.quality) or not 1 <= self.quality <= 100:
            raise SettingError(f"Quality must be a whole number in 1 to 100, got {self.quality!r}.")
        if not _is_whole(self.compression) or not 0 <= self.compression <= 9:
            raise SettingError(f"PNG compression must be a whole number in 0 to 9, got {self.compression!r}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_writable(
    picture: Picture, height: int, width: int, file_format: Format, transparent: bool = False
) -> tuple[str, ...]:
    """What the format would lose, as notes. Raises OutputError for what it cannot hold at all.

    `transparent`: the result has an alpha channel although the picture has none.
    """
    name, limit = file_format.name, file_format.max_side
    if limit and max(height, width) > limit:
        raise OutputError(f"{name} holds at most {limit} px a side, not {width}x{height}. Write png or tiff.")
    if (picture.alpha is not None or transparent) and not file_format.alpha:
        raise OutputError("JPEG holds no transparency and the result has some. Write png, webp or tiff.")
    if picture.stated is not None and picture.stated.is_hdr and not file_format.stated_colour:
        raise OutputError(f"{name} does not hold the colour space {picture.stated}. Write png.")
    lost = [f"16 bits reduced to 8 ({name} holds no more)"] if _is_deeper(picture, file_format) else []
    lost += _not_held(picture, file_format)
    if name == "png" and len(picture.icc or b"") > UNPACKED_BY_ALL:
        lost.append(
            f"the colour profile of {len(picture.icc or b'')} bytes kept; programs built on Pillow refuse such PNGs"
        )
    if name == "jpg":
        lost += _too_long_for_jpeg(picture, Size(height, width))
    if not file_format.stated_colour and picture.stated is not None and not picture.stated.is_srgb:
        lost.append(f"{picture.stated}: written as an ICC profile")
    return tuple(lost)


def _is_deeper(picture: Picture, file_format: Format) -> bool:
    return picture.depth == 16 and not file_format.deep


def _not_held(picture: Picture, file_format: Format) -> list[str]:
    """What the format has no place for."""
    lost = []
    if picture.iptc and not file_format.iptc:
        lost.append(f"IPTC not kept ({file_format.name} has no place for it)")
    if picture.comment and not file_format.comment:
        lost.append(f"the comment not kept ({file_format.name} has no place for it)")
    if picture.texts and not file_format.texts:
        names = ", ".join(key for key, _ in picture.texts[:6])
        lost.append(f"PNG texts not kept ({file_format.name} has no place for them): {names}")
    return lost


def _too_long_for_jpeg(picture: Picture, size: Size) -> list[str]:
    lengths = {
        "EXIF": (len(exif_block(exif_for(picture.exif, size))) if picture.exif else 0, _MAX_MARKER),
        "XMP": (len(picture.xmp or b""), _MAX_JPEG_XMP),
        "IPTC": (len(picture.iptc or b""), _MAX_JPEG_XMP),
        "comment": (len(picture.comment or b""), _MAX_MARKER),
        "colour profile": (len(picture.icc or b""), _MAX_JPEG_ICC),
    }
    return [
        f"{name} of {length} bytes not kept (JPEG holds {most})"
        for name, (length, most) in lengths.items()
        if length > most
    ]


def write_picture(path: str | Path, picture: Picture, options: SaveOptions = SaveOptions()) -> None:
    """Writes the file whole or not at all, and opens it again before it takes its name.

    Raises ImageError and SettingError on a picture that is none, OutputError as `check_writable` and `write_atomically`
    do, and where what is written does not read back with the same size, channels and depth; the old file then stays.
    """
    if not isinstance(path, (str, Path)):
        raise SettingError(f"A path is wanted to write a picture to, got {path!r}.")
    if not isinstance(options, SaveOptions):
        raise SettingError(f"SaveOptions are wanted to write a picture with, got {options!r}.")
    path = Path(path)
    picture = checked(picture)
    file_format = format_of(path)
    size = Size(*picture.rgb.shape[-2:])
    check_writable(picture, size.height, size.width, file_format)
    depth = picture.depth if file_format.deep else 8
    array = _to_array(picture, depth)
    whole = _ENCODERS[file_format.name](array, _fitting(picture, file_format, size), size, options)
    channels = 1 if array.ndim == 2 else array.shape[-1]

    def compare(written: Path) -> None:
        _compare(path, written, size, channels, depth)

    write_atomically(path, lambda file: file.write(whole), compare)


def checked(picture: Picture) -> Picture:
    """The picture in float32. Raises ImageError where it is none, SettingError on a depth other than 8 and 16."""
    if not isinstance(picture, Picture):
        raise ImageError(f"A Picture is wanted to write, got {type(picture).__name__}.")
    if not _is_whole(picture.depth) or picture.depth not in _DEPTHS:
        raise SettingError(f"Pictures are written with 8 or 16 bits per channel, not with {picture.depth!r}.")
    rgb = _plane(picture.rgb, 3, "rgb")
    alpha = None if picture.alpha is None else _plane(picture.alpha, 1, "alpha")
    if alpha is not None and alpha.shape[-2:] != rgb.shape[-2:]:
        raise ImageError(f"The alpha is {list(alpha.shape)} and the picture {list(rgb.shape)}: they must match.")
    for name in ("icc", "exif", "xmp", "iptc", "comment"):
        block = getattr(picture, name)
        if block is not None and not isinstance(block, bytes):
            raise ImageError(f"The picture's {name} must be bytes or None, got {type(block).__name__}.")
    return replace(picture, rgb=rgb, alpha=alpha)


def _plane(values: object, channels: int, name: str) -> Tensor:
    shape = f"(1, {channels}, H, W)"
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ImageError(f"The picture's {name} must be a floating-point tensor {shape} in [0, 1], got {kind}.")
    if values.ndim != 4 or values.shape[:2] != (1, channels) or 0 in values.shape:
        raise ImageError(f"The picture's {name} must be {shape} with H and W of 1 or more, got {list(values.shape)}.")
    values = values.detach().cpu().float()
    if not bool(torch.isfinite(values).all()):
        raise ImageError(f"The picture's {name} holds NaN or infinity, which no file can hold; values lie in [0, 1].")
    return values


def _fitting(picture: Picture, file_format: Format, size: Size) -> Picture:
    """Without what the format cannot hold, which `check_writable` has named; its colour in the format's own way."""
    if not file_format.stated_colour and picture.stated is not None:
        icc = picture.icc if picture.stated.is_srgb else profile_of(picture.stated, picture.grey)
        picture = replace(picture, icc=icc)
    if file_format.name != "jpg":
        return picture
    exif = exif_block(exif_for(picture.exif, size)) if picture.exif else None
    return replace(
        picture,
        exif=None if exif is None or len(exif) > _MAX_MARKER else picture.exif,
        xmp=_up_to(picture.xmp, _MAX_JPEG_XMP),
        iptc=_up_to(picture.iptc, _MAX_JPEG_XMP),
        comment=_up_to(picture.comment, _MAX_MARKER),
        icc=_up_to(picture.icc, _MAX_JPEG_ICC),
    )


def _up_to(block: bytes | None, most: int) -> bytes | None:
    return None if block is None or len(block) > most else block


def _compare(path: Path, written: Path, size: Size, channels: int, depth: int) -> None:
    """Opens what was written. Raises OutputError where it is not what it should be."""
    wanted = f"{size} px, {channels} channels, {depth} bits"
    try:
        header = read_header(written, math.inf)
    except ImageError as error:
        raise OutputError(f"{path} is not written: what was to be {wanted} cannot be read again ({error}).") from error
    held = {channels} if format_of(path).grey else {3, 3 + (channels in (2, 4))}
    if header.size != size or header.channels not in held or header.bits != depth:
        found = f"{header.size} px, {header.channels} channels, {header.bits} bits"
        raise OutputError(
            f"{path} is not written: it would read as {found}, and should be {wanted}. Write png instead."
        )


def _to_array(picture: Picture, depth: int) -> np.ndarray:
    """(H, W) for grey, else (H, W, C); rounded to the depth's integers."""
    colour = picture.rgb.mean(1, keepdim=True) if picture.grey else picture.rgb
    planes = colour if picture.alpha is None else torch.cat([colour, picture.alpha], 1)
    array = rearrange(planes[0].clamp(0, 1), "c h w -> h w c").mul(2**depth - 1).round().numpy()
    array = array.astype(np.uint16 if depth == 16 else np.uint8)
    return array[..., 0] if array.shape[-1] == 1 else array


def _png(array: np.ndarray, picture: Picture, size: Size, options: SaveOptions) -> bytes:
    """Colour pictures of 16 bits by pypng, for Pillow has no such mode."""
    buffer = io.BytesIO()
    if array.dtype == np.uint16 and array.ndim == 3:
        alpha = array.shape[-1] in (2, 4)
        writer = png_module().Writer(
            size.width,
            size.height,
            bitdepth=16,
            greyscale=picture.grey,
            alpha=alpha,
            compression=options.compression,
        )
        writer.write_packed(buffer, (row.tobytes() for row in array.astype(">u2")))
    else:
        Image.fromarray(array).save(buffer, "PNG", compress_level=options.compression)
    return with_chunks(buffer.getvalue(), [*_colour_chunks(picture), *_other_chunks(picture, size)])


def _colour_chunks(picture: Picture) -> list[tuple[bytes, bytes]]:
    chunks = list(picture.stated.chunks) if picture.stated is not None else []
    if picture.icc:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(picture.icc)))
    return chunks


def _other_chunks(picture: Picture, size: Size) -> list[tuple[bytes, bytes]]:
    chunks = []
    if picture.dpi:
        per_metre = (max(1, round(dpi * _PX_PER_METRE)) for dpi in picture.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if picture.exif:
        chunks.append((b"eXIf", exif_block(exif_for(picture.exif, size)).removeprefix(b"Exif\0\0")))
    if picture.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    if picture.comment:
        chunks.append(text_chunk("Comment", _decoded(picture.comment)))
    return chunks + [text_chunk(key, text) for key, text in picture.texts]


def _decoded(comment: bytes) -> str:
    """A comment's text: UTF-8, or Latin-1 where it is not that."""
    try:
        return comment.decode("utf-8")
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _jpeg(array: np.ndarray, picture: Picture, size: Size, options: SaveOptions) -> bytes:
    extra = _given(icc_profile=picture.icc, xmp=picture.xmp, comment=picture.comment)
    if picture.exif:
        extra["exif"] = exif_block(exif_for(picture.exif, size))
    if picture.dpi:
        extra["dpi"] = tuple(min(65_535, max(1, round(dpi))) for dpi in picture.dpi)
    if picture.iptc:
        extra["extra"] = _photoshop_segment(picture.iptc)
    return _saved(array, "JPEG", {**extra, "quality": options.quality, "subsampling": 0})


def _photoshop_segment(iptc: bytes) -> bytes:
    """An APP13 segment with IPTC alone (Adobe Photoshop file format, image resource 0x0404)."""
    block = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(block) + 2) + block


def _webp(array: np.ndarray, picture: Picture, size: Size, options: SaveOptions) -> bytes:
    extra = _given(icc_profile=picture.icc, xmp=picture.xmp)
    if picture.exif or picture.dpi:
        extra["exif"] = exif_block(exif_for(picture.exif, size, picture.dpi))
    settings = {"quality": options.quality, "lossless": options.lossless, "method": 4, "exact": True}
    return _saved(array, "WEBP", {**extra, **settings})


def _tiff(array: np.ndarray, picture: Picture, size: Size, options: SaveOptions) -> bytes:
    facts = Facts(picture.icc, xmp=picture.xmp, iptc=picture.iptc, dpi=picture.dpi)
    return encode_tiff(array, picture.grey, facts, exif_for(picture.exif, size))


def _given(**blocks: bytes | None) -> dict:
    return {name: block for name, block in blocks.items() if block}


def _saved(array: np.ndarray, name: str, options: Mapping) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, name, **options)
    return buffer.getvalue()


_ENCODERS = {"png": _png, "jpg": _jpeg, "webp": _webp, "tiff": _tiff}
