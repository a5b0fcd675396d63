"""What a file says beside its pixels: gathered when it is read, cleaned of what describes the source file alone."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from .colour_space import PNG_COLOUR, StatedColour, stated_colour
from .exif import exif_dpi, kept_exif
from .png_chunks import chunk_data
from .xmp import DamagedXmp, extension_of, kept_xmp

_PROFILE_MARK = slice(36, 40)
_IPTC = 0x0404
_XMP_TEXT = "XML:com.adobe.xmp"
_NO_TEXTS = re.compile(r"XML:com\.adobe\.xmp|Raw profile type (exif|app1|icc|icm)|Thumb::.*", re.IGNORECASE)
"""Keys of a PNG's texts that are XMP, EXIF and profiles, which are carried by themselves, or describe a thumbnail."""

_STALE_TEXT = re.compile(r"Raw profile type xmp", re.IGNORECASE)
_NAME_LENGTH = range(1, 80)
_MOST_XMP = 4 << 20
_CREDENTIALS, _NO_CREDENTIALS = b"caBX", "content credentials (C2PA) not kept: they sign other pixels"


@dataclass(frozen=True)
class Facts:
    """What is kept of a file beside its pixels.

    icc, exif, xmp, iptc: whole blocks, without orientation, sizes and previews. comment: of JPEG and GIF. texts: keys
    and texts of a PNG. dpi: px per inch, across and down. stated: a PNG's colour chunks.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    dpi: tuple[float, float] | None = None
    stated: StatedColour | None = None


def facts_of(path: Path, image: Image.Image, notes: list[str], converted: bool = False) -> Facts:
    """The facts of any file but TIFF, from Pillow's picture. Notes say what is damaged and left out.

    `converted`: its pixels will be sRGB, so that its profile is no longer theirs. Raises ImageError as `stated_colour`.
    """
    icc = None if converted else whole_profile(image.info.get("icc_profile"), notes)
    stated: StatedColour | None = None
    texts: tuple[tuple[str, str], ...] = ()
    if isinstance(image, PngImageFile):
        found = chunk_data(path, (*PNG_COLOUR, _CREDENTIALS))
        stated, said = stated_colour(path, found, bool(icc))
        said += [_NO_CREDENTIALS] if _CREDENTIALS in found else []
        notes += said
        texts = _texts(image, notes)
    segments = getattr(image, "applist", [])
    if _has_gain_map(segments):
        notes.append("the gain map is left out")
    if any(name == "APP11" and b"jumb" in data for name, data in segments):
        notes.append(_NO_CREDENTIALS)
    xmp = image.info.get("xmp") or image.info.get(_XMP_TEXT)
    xmp = xmp.encode("utf-8", "surrogateescape") if isinstance(xmp, str) else xmp
    comment = image.info.get("comment")
    return Facts(
        icc,
        whole_exif(image.getexif, bool(image.info.get("exif")), notes, converted),
        whole_xmp(xmp, notes, extension_of(segments)),
        _iptc(image),
        comment if isinstance(comment, bytes) and comment else None,
        texts,
        whole_dpi(image.info.get("dpi")) or _dpi_of_exif(image),
        stated,
    )


def whole_profile(icc: object, notes: list[str]) -> bytes | None:
    """A colour profile with the mark that each has."""
    if not icc:
        return None
    if isinstance(icc, bytes) and icc[_PROFILE_MARK] == b"acsp":
        return icc
    notes.append("the colour profile is damaged and left out")
    return None


def whole_exif(load, there: bool, notes: list[str], converted: bool = False) -> bytes | None:  # noqa: ANN001
    """What is kept of the EXIF that `load()` gives; None, and a note, where it is damaged."""
    try:
        found = load()
        if not there and not len(found):
            return None
        data, said = kept_exif(found, converted)
    except Exception:  # damaged EXIF can fail in any way
        notes.append("the EXIF data is damaged and left out")
        return None
    notes += said
    return data


def whole_xmp(packet: object, notes: list[str], extension: bytes = b"") -> bytes | None:
    """What is kept of the XMP; None, and a note, where it is damaged."""
    if not isinstance(packet, bytes) or not packet.strip(b"\0 \r\n\t"):
        return None
    if len(extension) > _MOST_XMP:
        notes.append(f"extended XMP of {len(extension)} bytes not kept")
        extension = b""
    try:
        return kept_xmp(packet, extension)
    except DamagedXmp:
        notes.append("the XMP data is damaged and left out")
        return None


def whole_dpi(dpi: object) -> tuple[float, float] | None:
    """A resolution that means something: two finite numbers of 1 or more."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(v) and 1 < v < 60_000 for v in (across, down)) else None


def _dpi_of_exif(image: Image.Image) -> tuple[float, float] | None:
    try:
        return whole_dpi(exif_dpi(image.getexif()))
    except Exception:  # damaged EXIF can fail in any way, and is left out with a note
        return None


def _texts(image: PngImageFile, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """The texts of a PNG, those behind its pixels too."""
    kept = []
    for key, text in image.text.items():
        if _STALE_TEXT.fullmatch(key):
            notes.append(f"the text {key!r} is not kept")
        elif not _NO_TEXTS.fullmatch(key) and len(key) in _NAME_LENGTH:
            kept.append((key, str(text)))
    return tuple(kept)


def _iptc(image: Image.Image) -> bytes | None:
    photoshop = image.info.get("photoshop")
    found = photoshop.get(_IPTC) if isinstance(photoshop, dict) else None
    return found if isinstance(found, bytes) and found else None


def _has_gain_map(segments: Iterable[tuple[str, bytes]]) -> bool:
    return any(name == "APP1" and b"hdrgm:Version=" in data for name, data in segments)
