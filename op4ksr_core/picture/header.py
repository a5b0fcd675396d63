"""What a picture file says of itself before a pixel is decoded, and whether its data can be whole."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import ImageError
from ..formats import PILLOW_FORMATS, READABLE
from ..geometry import Size
from .deep import tifffile_module
from .orientation import ORIENTATION, upright, valid_orientation
from .png_chunks import SIGNATURE, chunk_data, chunks

MAX_MEGAPIXELS = 100.0
"""Larger pictures are refused unless the caller raises the limit: a small file can claim any size."""

MAX_TEXT = 32 << 20
"""Bytes of a PNG's texts or profile, unpacked; larger ones are left out with a note."""

_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 1 << 20
_WITH_EXIF = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class Header:
    """kind: `png`, `tiff`, or `pillow` for what Pillow alone reads. size: upright. bits: per channel.

    channels: as stored, alpha included; a palette is one.
    """

    kind: str
    size: Size
    bits: int = 8
    channels: int = 3


def read_header(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> Header:
    """Reads the header alone. Raises ImageError that names the file, what is wrong with it, and the remedy."""
    path = Path(path)
    with readable(path):
        if not path.exists():
            raise ImageError(f"{path} is not there (any more).")
        if not path.is_file():
            raise ImageError(f"{path} is not a file; name a picture file.")
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes).")
        with path.open("rb") as file:
            start = file.read(33)
        if start.startswith(SIGNATURE):
            header = _png_header(path, start)
        elif start[:4] in _TIFFS:
            header = _tiff_header(path)
        else:
            with opened(path) as image:
                size = upright(Size(image.height, image.width), orientation_of(image))
                header = Header("pillow", size, channels=len(image.getbands()))
    if header.size.pixels > max_megapixels * 1e6:
        raise ImageError(
            f"{path} is {header.size} px, {header.size.pixels / 1e6:.0f} megapixels; more than {max_megapixels:g} are "
            f"refused, and reading it would take some {24 * header.size.pixels / 1e9:.1f} GB. Allow it with "
            "--max-megapixels, or make it smaller."
        )
    return header


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises on a damaged file into an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture that can be read (wanted {', '.join(READABLE)}).") from error
    except Exception as error:  # a damaged file can fail in any way
        why = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise ImageError(f"{path} cannot be read: {why}. It may be damaged or cut short.") from error


@contextmanager
def opened(path: Path | BinaryIO) -> Iterator[Image.Image]:
    """Pillow's picture, not decoded yet, without its own limits of size and texts."""
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, MAX_TEXT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which is left out with a note
            with Image.open(path, formats=(*PILLOW_FORMATS, "TIFF")) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or it is no such number."""
    try:
        return valid_orientation(image.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF can fail in any way
        return 1


def _png_header(path: Path, start: bytes) -> Header:
    if len(start) < 33 or start[12:16] != b"IHDR":
        raise ImageError(f"{path} is a PNG without its header; it is damaged or cut short.")
    width, height, depth, kind, *_ = struct.unpack(">IIBBBBB", start[16:29])
    if depth not in _PNG_DEPTHS.get(kind, ()) or not (0 < width < 2**31 and 0 < height < 2**31):
        said = f"{width}x{height} px, colour type {kind}, {depth} bits"
        raise ImageError(f"{path} says that it is a PNG of {said}: there is no such PNG. It is damaged.")
    size = Size(height, width)
    if size.pixels > MAX_MEGAPIXELS * 1e6:
        return Header("png", size, depth, _PNG_CHANNELS[kind])  # refused, or allowed: its EXIF is read later
    return Header("png", upright(size, png_orientation(path)), depth, _PNG_CHANNELS[kind])


def png_orientation(path: Path) -> int:
    """EXIF's orientation; 1 also where what stands beside the pixels is damaged, which is left out.

    Pillow decodes all pixels to look for it behind them: it is asked only where there is a chunk that can hold it.
    """
    try:
        if not chunk_data(path, _WITH_EXIF, most=0):
            return 1
        with opened(path) as image:
            return orientation_of(image)
    except Exception:  # a damaged chunk can fail in any way; the pixels are looked at later
        return 1


def _tiff_header(path: Path) -> Header:
    from .tiff import bits_of, first_page, orientation_of_page

    with tifffile_module().TiffFile(path) as tiff:
        page = first_page(tiff)
        size = upright(Size(int(page.imagelength), int(page.imagewidth)), orientation_of_page(page))
        return Header("tiff", size, bits_of(page), int(page.samplesperpixel))


def check_png_data(path: Path) -> None:
    """Raises ImageError where the pixel data is shorter than the header says: decoders fill the rest in silence."""
    with path.open("rb") as file:
        start = file.read(33)
        width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", start[16:29])
        wanted = sum(_png_bytes(w, h, depth * _PNG_CHANNELS[kind]) for w, h in _passes(width, height, interlaced))
        engine, held = zlib.decompressobj(), 0
        for data in _idat(file):
            left = data
            while left and held <= wanted and not engine.eof:
                held += len(engine.decompress(left, _BLOCK))
                left = engine.unconsumed_tail
            if held > wanted or engine.eof:
                break
        while held <= wanted and not engine.eof:
            more = engine.decompress(engine.unconsumed_tail, _BLOCK)
            if not more:
                break
            held += len(more)
    if held < wanted:
        raise ImageError(f"{path} is {width}x{height} px by its header and has data for fewer; it is cut short.")


def _passes(width: int, height: int, interlaced: int) -> list[tuple[int, int]]:
    if not interlaced:
        return [(width, height)]
    sizes = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in _ADAM7]
    return [(w, h) for w, h in sizes if w > 0 and h > 0]


def _png_bytes(width: int, height: int, bits_per_px: int) -> int:
    return height * (1 + -(-width * bits_per_px // 8))


def _idat(file: BinaryIO) -> Iterator[bytes]:
    for kind, length in chunks(file):
        if kind == b"IDAT":
            yield file.read(length)
