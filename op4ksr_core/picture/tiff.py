"""TIFF in: grey and RGB of 8 or 16 bits with any extra channels. What it cannot read rightly it refuses by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from .deep import tifffile_module
from .orientation import orient, valid_orientation

_WHITE, _BLACK, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
TEXT_TAGS = (270, 271, 272, 305, 306, 315, 33432)
"""Description, maker, model, software, date, artist, copyright."""


@dataclass(frozen=True)
class TiffData:
    """colour (H, W, 1 or 3) and alpha (H, W) or None, upright, unsigned integers of `bits`."""

    colour: np.ndarray
    alpha: np.ndarray | None
    bits: int
    icc: bytes | None
    texts: dict[int, str]
    xmp: bytes | None
    notes: tuple[str, ...]


def read_tiff(path: Path) -> TiffData | None:
    """The first page. None for what Pillow reads rightly (few bits, palettes, 8-bit CMYK, YCbCr, Lab).

    Raises ImageError for layouts that would come out wrong: other number formats, unknown photometric
    interpretations, palettes and print colours of 16 bits.
    """
    with tifffile_module().TiffFile(path) as tiff:
        page = first_page(tiff)
        _check_numbers(path, page)
        bits, kind, samples = _bits(page), int(page.photometric), int(page.samplesperpixel)
        if kind not in (_WHITE, _BLACK, _RGB):
            _check_other(path, kind, bits, samples)
            return None
        if bits not in (8, 16):
            if bits in (1, 2, 4) and samples == 1:
                return None
            raise ImageError(f"{path} has {bits} bits per channel; 1, 2, 4, 8 and 16 are read. Convert it.")
        count = 3 if kind == _RGB else 1
        if samples < count:
            raise ImageError(f"{path} says RGB and has {samples} channels; it is damaged.")
        try:
            array = page.asarray()
        except Exception as error:
            if _plain_for_pillow(page, bits, kind, samples, count):
                return None
            raise ImageError(f"{path} cannot be read: {error}. Convert it to an uncompressed or zip TIFF.") from error
        notes = [] if len(tiff.pages) == 1 else [f"first of {len(tiff.pages)} pages"]
        array = np.moveaxis(array, 0, -1) if int(page.planarconfig) == 2 and samples > 1 else array
        array = array.reshape(int(page.imagelength), int(page.imagewidth), samples)
        colour, alpha = _parted(page, array, count, bits, notes)
        colour = (2**bits - 1) - colour if kind == _WHITE else colour
        turn = valid_orientation(page.tags[274].value if 274 in page.tags else 1)
        icc, texts, xmp = _described(page, notes)
        alpha = None if alpha is None else orient(alpha, turn)
        return TiffData(orient(colour, turn), alpha, bits, icc, texts, xmp, tuple(notes))


def first_page(tiff: Any) -> Any:
    """The first page that is no thumbnail (subfile type 1), else the first."""
    pages = (page for page in tiff.pages if not int(getattr(page, "subfiletype", 0) or 0) & 1)
    return next(pages, tiff.pages[0])


def _bits(page: Any) -> int:
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


def _plain_for_pillow(page: Any, bits: int, kind: int, samples: int, count: int) -> bool:
    """A compression that only Pillow knows, and a layout that it reads rightly."""
    extra = _extras(page)
    usual = samples == count or (samples == count + 1 and extra[:1] in ((1,), (2,)))
    return usual and (bits == 8 or (samples == 1 and kind == _BLACK))


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


def _described(page: Any, notes: list[str]) -> tuple[bytes | None, dict[int, str], bytes | None]:
    """Colour profile, texts and XMP."""
    values = {code: page.tags[code].value for code in (*TEXT_TAGS, 700, 34675) if code in page.tags}
    icc = values.get(34675)
    if icc is not None and not isinstance(icc, bytes):
        notes.append("the colour profile is damaged and left out")
        icc = None
    texts = {code: value for code, value in values.items() if code in TEXT_TAGS and isinstance(value, str)}
    xmp = values.get(700)
    return icc, texts, bytes(xmp) if isinstance(xmp, (bytes, bytearray)) else None
