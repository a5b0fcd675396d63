"""What a picture file says of itself before a pixel is decoded, and whether its data can be whole."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from ..files import READABLE
from ..geometry import Size
from .orientation import ORIENTATION, upright, valid_orientation

MAX_MEGAPIXELS = 100.0
"""Larger pictures are refused unless the caller raises the limit: a small file can claim any size."""

PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB")

_PNG, _TIFFS = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Header:
    """kind: `png`, `tiff`, or `pillow` for what Pillow alone reads. size: upright. bits: per channel."""

    kind: str
    size: Size
    bits: int = 8


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
        if start.startswith(_PNG):
            header = _png_header(path, start)
        elif start[:4] in _TIFFS:
            header = _tiff_header(path)
        else:
            with opened(path) as image:
                header = Header("pillow", upright(Size(image.height, image.width), orientation_of(image)))
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
def opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's picture, not decoded yet, of the formats that are read; without Pillow's own limit of size."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which is left out with a note
            with Image.open(path, formats=(*PILLOW_FORMATS, "TIFF")) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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
        return Header("png", size, depth)  # refused, or allowed: its EXIF is read later
    with opened(path) as image:
        return Header("png", upright(size, orientation_of(image)), depth)


def _tiff_header(path: Path) -> Header:
    try:
        import tifffile
    except ImportError:
        with opened(path) as image:
            return Header("tiff", upright(Size(image.height, image.width), orientation_of(image)))
    from .tiff import first_page

    with tifffile.TiffFile(path) as tiff:
        page = first_page(tiff)
        orientation = valid_orientation(page.tags[274].value if 274 in page.tags else 1)
        size = upright(Size(int(page.imagelength), int(page.imagewidth)), orientation)
        bits = page.bitspersample
        return Header("tiff", size, max(bits) if isinstance(bits, tuple) else int(bits))


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
    while True:
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            yield file.read(length)
            file.seek(4, 1)
        elif kind == b"IEND":
            return
        else:
            file.seek(length + 4, 1)
