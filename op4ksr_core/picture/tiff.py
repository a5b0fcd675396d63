"""TIFF in and out: grey and RGB of 8 or 16 bits, extra channels. What it cannot read rightly it refuses by name."""

import io
import struct
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import ImageError
from .deep import tifffile_module
from .exif import RESOLUTION_UNIT, TEXT_TAGS, X_RESOLUTION, Y_RESOLUTION
from .facts import Facts, whole_dpi, whole_exif, whole_profile, whole_xmp
from .orientation import ORIENTATION, orient, valid_orientation
from .xmp import xmp_orientation

_WHITE, _BLACK, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_XMP, _IPTC, _ICC = 700, 33723, 34675
_CENTIMETRE = 3
_SUB_PAGES, _DNG = 330, 50706
_BYTE, _ASCII, _SHORT, _LONG, _UNDEFINED = 1, 2, 3, 4, 7


@dataclass(frozen=True)
class TiffData:
    """The first page. colour (H, W, 1 or 3) and alpha (H, W) or None, upright, unsigned integers of `bits`.

    Without colour where Pillow reads it rightly: few bits, palettes, 8-bit CMYK, YCbCr, Lab.
    """

    facts: Facts
    page: int
    notes: tuple[str, ...]
    colour: np.ndarray | None = None
    alpha: np.ndarray | None = None
    bits: int = 8


def read_tiff(path: Path) -> TiffData:
    """The first page that is no thumbnail.

    Raises ImageError for layouts that would come out wrong: other number formats, unknown photometric
    interpretations, palettes and print colours of 16 bits.
    """
    with tifffile_module().TiffFile(path) as tiff:
        page = first_page(tiff)
        _check_numbers(path, page)
        notes = [] if len(tiff.pages) == 1 else [f"first of {len(tiff.pages)} pages"]
        by_pillow = _is_for_pillow(path, page)
        converted = int(page.photometric) in (_CMYK, _YCBCR, _LAB)
        facts = _facts(path, tiff, page, notes, converted)
        data = TiffData(facts, page.index, tuple(notes))
        return data if by_pillow else _decoded(path, page, data)


def _is_for_pillow(path: Path, page: Any) -> bool:
    """Whether Pillow reads such a page rightly. Raises ImageError for what nobody here does."""
    bits, kind, samples = bits_of(page), int(page.photometric), int(page.samplesperpixel)
    if kind not in (_WHITE, _BLACK, _RGB):
        _check_other(path, kind, bits, samples)
        return True
    if bits not in (8, 16):
        if bits in (1, 2, 4) and samples == 1:
            return True
        raise ImageError(f"{path} has {bits} bits per channel; 1, 2, 4, 8 and 16 are read. Convert it.")
    if samples < _colours(kind):
        raise ImageError(f"{path} says RGB and has {samples} channels; it is damaged.")
    return False


def _colours(kind: int) -> int:
    return 3 if kind == _RGB else 1


def _decoded(path: Path, page: Any, data: TiffData) -> TiffData:
    """With its pixels."""
    kind, bits, samples, notes = int(page.photometric), bits_of(page), int(page.samplesperpixel), list(data.notes)
    try:
        array = page.asarray()
    except Exception as error:  # each decoder fails in its own way
        raise ImageError(f"{path} cannot be read: {error}. Convert it to an uncompressed or zip TIFF.") from error
    array = np.moveaxis(array, 0, -1) if int(page.planarconfig) == 2 and samples > 1 else array
    array = array.reshape(int(page.imagelength), int(page.imagewidth), samples)
    colour, alpha = _parted(page, array, _colours(kind), bits, notes)
    colour = (2**bits - 1) - colour if kind == _WHITE else colour
    turn = orientation_of_page(page)
    alpha = None if alpha is None else orient(alpha, turn)
    return replace(data, colour=orient(colour, turn), alpha=alpha, bits=bits, notes=tuple(notes))


def first_page(tiff: Any) -> Any:
    """The first page that is no thumbnail (subfile type 1), else the first.

    Raises ImageError on a camera's raw file, whose pages are previews.
    """
    first = tiff.pages[0]
    page = next((page for page in tiff.pages if not int(getattr(page, "subfiletype", 0) or 0) & 1), None)
    if _DNG in first.tags or (page is None and _SUB_PAGES in first.tags):
        raise ImageError(f"{tiff.filename} is a camera's raw file, and holds previews beside it. Develop it first.")
    return first if page is None else page


def orientation_of_page(page: Any) -> int:
    """The tag's orientation, 1 to 8; XMP's where there is no tag."""
    if ORIENTATION in page.tags:
        return valid_orientation(page.tags[ORIENTATION].value)
    return valid_orientation(xmp_orientation(_block(page, _XMP)))


def bits_of(page: Any) -> int:
    """Bits per channel."""
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _check_numbers(path: Path, page: Any) -> None:
    form = page.sampleformat
    forms = {int(f) for f in form} if isinstance(form, tuple) else {int(form)}
    if forms - {1, 4}:
        names = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
        raise ImageError(
            f"{path} holds {names.get(max(forms), 'unknown')} numbers, which say not what is black and what is white; "
            "convert it to 8 or 16 unsigned bits per channel."
        )
    bits = page.bitspersample
    if isinstance(bits, tuple) and len(set(bits)) > 1:
        raise ImageError(f"{path} has channels of {', '.join(map(str, bits))} bits; convert it to equal ones.")


def _check_other(path: Path, kind: int, bits: int, samples: int) -> None:
    """Palette, CMYK, YCbCr and Lab go to Pillow at 8 bits and their own number of channels."""
    channels = {_PALETTE: (1, 8), _CMYK: (4, 8), _YCBCR: (3, 8), _LAB: (3, 8)}
    if kind not in channels or bits > 8 or samples != channels[kind][0]:
        names = {_PALETTE: "palette", _CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "Lab", 4: "transparency mask"}
        what = names.get(kind, f"photometric interpretation {kind}")
        raise ImageError(f"{path} is {what} of {samples} channels and {bits} bits; convert it to RGB of 8 or 16 bits.")


def _extras(page: Any) -> tuple[int, ...]:
    found = page.extrasamples
    return tuple(int(x) for x in found) if isinstance(found, (tuple, list)) else (int(found),)


def _parted(
    page: Any, array: np.ndarray, count: int, bits: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and alpha; extra channels that are no alpha are left out with a note."""
    extra = (*_extras(page), *([0] * array.shape[-1]))[: array.shape[-1] - count]
    where = next((n for n, meaning in enumerate(extra) if meaning in (1, 2)), None)
    left = len(extra) - (where is not None)
    if left:
        notes.append(f"{left} extra channel{'s' if left > 1 else ''} without a meaning left out")
    colour = array[..., :count]
    if where is None:
        return colour, None
    alpha = array[..., count + where]
    if extra[where] == 1:
        top = 2**bits - 1
        share = np.maximum(alpha[..., None].astype(np.float64), 1) / top
        colour = np.minimum(colour / share, top).round().astype(array.dtype)
    return colour, alpha


def _facts(path: Path, tiff: Any, page: Any, notes: list[str], converted: bool) -> Facts:
    icc = None if converted else whole_profile(page.tags[_ICC].value if _ICC in page.tags else None, notes)
    return Facts(
        icc,
        _exif(path, tiff, page, notes, converted),
        whole_xmp(_block(page, _XMP), notes),
        _block(page, _IPTC),
        dpi=_dpi(page),
    )


def _exif(path: Path, tiff: Any, page: Any, notes: list[str], converted: bool) -> bytes | None:
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def load() -> Image.Exif:
            found = Image.Exif()
            found.endian, found.bigtiff = tiff.byteorder, tiff.is_bigtiff
            found.load_from_fp(file, page.offset)
            return found

        return whole_exif(load, True, notes, converted)


def _block(page: Any, code: int) -> bytes | None:
    """A tag's bytes, also where they are stored as whole numbers of four (IPTC often is)."""
    value = page.tags[code].value if code in page.tags else None
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        size = 4 if int(page.tags[code].dtype) == 4 else 1
        if any(not 0 <= number < 256**size for number in value):
            return None
        return b"".join(number.to_bytes(size, "little" if page.parent.byteorder == "<" else "big") for number in value)
    return bytes(value) if isinstance(value, (bytes, bytearray)) and value else None


def _dpi(page: Any) -> tuple[float, float] | None:
    unit = page.tags[RESOLUTION_UNIT].value if RESOLUTION_UNIT in page.tags else 2
    parts = [page.tags[code].value for code in (X_RESOLUTION, Y_RESOLUTION) if code in page.tags]
    if unit not in (2, _CENTIMETRE) or any(not isinstance(part, tuple) or len(part) != 2 for part in parts):
        return None
    scale = 2.54 if unit == _CENTIMETRE else 1
    return whole_dpi(tuple(scale * part[0] / part[1] for part in parts if part[1]))


def encode_tiff(array: np.ndarray, grey: bool, facts: Facts, exif: dict[int, Any]) -> bytes:
    """A TIFF of (H, W) or (H, W, C) unsigned integers, zip-compressed; alpha, the last channel, is straight."""
    buffer = io.BytesIO()
    alpha = array.ndim == 3 and array.shape[-1] in (2, 4)
    inner = {code: value for code, value in exif.items() if isinstance(value, dict)}
    tifffile_module().imwrite(
        buffer,
        array,
        byteorder="<",
        photometric="minisblack" if grey else "rgb",
        planarconfig="contig" if array.ndim == 3 else None,
        extrasamples=["unassalpha"] if alpha else None,
        compression="zlib",
        iccprofile=facts.icc,
        resolution=facts.dpi,
        resolutionunit="inch" if facts.dpi else None,
        extratags=[*_own_tags(exif), *_blocks(facts), *((code + 1, _LONG, 1, 0, True) for code in inner)],
        metadata=None,
        software=False,
    )
    data = bytearray(buffer.getvalue())
    for code, directory in inner.items():
        _append(data, code, directory)
    return bytes(data)


def _own_tags(exif: dict[int, Any]) -> list[tuple]:
    """Texts and ratings as tifffile takes them: code, type, count, value."""
    tags: list[tuple] = []
    for code, value in exif.items():
        if isinstance(value, (str, bytes)) and code in TEXT_TAGS:
            data = (value.encode() if isinstance(value, str) else value) + b"\0"
            tags.append((code, _ASCII, len(data), data, True))
        elif isinstance(value, bytes):
            tags.append((code, _BYTE, len(value), value, True))
        elif isinstance(value, int):
            tags.append((code, _SHORT, 1, value, True))
    return tags


def _blocks(facts: Facts) -> list[tuple]:
    found = ((_XMP, _BYTE, facts.xmp), (_IPTC, _UNDEFINED, facts.iptc))
    return [(code, kind, len(block), block, True) for code, kind, block in found if block]


def _append(data: bytearray, code: int, directory: dict[int, Any]) -> None:
    """Puts an EXIF or GPS directory behind the file, and its place into the tag left for it, numbered one higher.

    tifffile writes no such directories, and no tag of their own numbers.
    """
    entries = ImageFileDirectory_v2(group=code)
    for tag, value in directory.items():
        entries[tag] = value
    data += bytes(len(data) % 2)
    place = len(data)
    data += entries.tobytes(place)
    with tifffile_module().TiffFile(io.BytesIO(data)) as tiff:
        at = tiff.pages[0].tags[code + 1].offset
    struct.pack_into("<HHII", data, at, code, _LONG, 1, place)
