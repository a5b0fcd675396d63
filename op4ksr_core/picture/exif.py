"""EXIF for another picture than it was written for: what a person or camera said stays, what describes the file goes.

Tags are chosen by an allow list. Structure (sizes, strips, palettes), orientation, thumbnails and previews belong to
whoever writes the file; copied into another one they destroy it.
"""

from typing import Any

from PIL import ExifTags, Image

from ..geometry import Size

EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD = 0x8769, 0x8825, 0xA005
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
PIXEL_WIDTH, PIXEL_HEIGHT, COLOUR_SPACE, _MAKER_NOTE = 0xA002, 0xA003, 0xA001, 0x927C
_INCH, _CENTIMETRE, _SRGB = 2, 3, 1

TEXT_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)
"""Document, description, maker, model, page, software, date, artist, computer, copyright."""

_WINDOWS_TEXTS = (0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)
_KEPT = frozenset({*TEXT_TAGS, *_WINDOWS_TEXTS, 0x4746, 0x4749})
"""Texts and ratings."""

_STRUCTURE = (*range(254, 269), *range(273, 285), *range(286, 301), 317, *range(320, 348), *range(512, 533))
_SAID_ELSEWHERE = frozenset({*_STRUCTURE, 700, 33723, 34377, 34675, EXIF_IFD, GPS_IFD, 0xC4A5})
"""Structure, and blocks that are carried by themselves. What is neither here nor in _KEPT is named in a note."""

_OF_THE_SOURCE = frozenset({_MAKER_NOTE, 0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210, 0xA460, 0xA461, 0xA462})
"""Maker's note (offsets and previews), places in pixels, pixels per unit of the sensor, composite images."""


def kept_exif(found: Image.Exif, converted: bool = False) -> tuple[bytes | None, list[str]]:
    """The block to be kept, None where nothing is left, and notes on what is not kept.

    `converted`: the pixels are sRGB now. May raise anything where the EXIF is damaged.
    """
    notes = []
    private = sorted(tag for tag in found if tag not in _KEPT | _SAID_ELSEWHERE)
    if private:
        notes.append(f"EXIF tag{'s' if len(private) > 1 else ''} {_listed(private)} not kept")
    if _MAKER_NOTE in found.get_ifd(EXIF_IFD):
        notes.append("the camera maker's note in EXIF not kept")
    tags = _kept_tags(found)
    if converted and COLOUR_SPACE in tags.get(EXIF_IFD, {}):
        tags[EXIF_IFD][COLOUR_SPACE] = _SRGB
    if not tags:
        return None, notes
    data = exif_block(tags)
    exif_block(exif_for(data, Size(1, 1)))
    return data, notes


def exif_for(block: bytes | None, size: Size, dpi: tuple[float, float] | None = None) -> dict[int, Any]:
    """Tags of a written file, directories as dictionaries: pixel sizes, where there are any, are its own.

    `dpi` where EXIF is to carry that.
    """
    found = Image.Exif()
    if block:
        found.load(block)
    tags = _kept_tags(found)
    own = tags.get(EXIF_IFD, {})
    own.update({tag: side for tag, side in ((PIXEL_WIDTH, size.width), (PIXEL_HEIGHT, size.height)) if tag in own})
    if dpi:
        tags |= {X_RESOLUTION: dpi[0], Y_RESOLUTION: dpi[1], RESOLUTION_UNIT: _INCH}
    return tags


def exif_dpi(found: Image.Exif) -> tuple[Any, Any] | None:
    """Its resolution in px per inch, unchecked."""
    across, down, unit = (found.get(tag) for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT))
    if across is None or down is None or unit not in (None, _INCH, _CENTIMETRE):
        return None
    scale = 2.54 if unit == _CENTIMETRE else 1
    return across * scale, down * scale


def exif_block(tags: dict[int, Any]) -> bytes:
    """The tags as a block that begins with `Exif`."""
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    return exif.tobytes()


def _kept_tags(found: Image.Exif) -> dict[int, Any]:
    kept = {tag: _as_stored(found[tag]) for tag in found if tag in _KEPT}
    own = {tag: _as_stored(value) for tag, value in found.get_ifd(EXIF_IFD).items() if tag not in _OF_THE_SOURCE}
    if INTEROPERABILITY_IFD in own:
        own[INTEROPERABILITY_IFD] = dict(found.get_ifd(INTEROPERABILITY_IFD))
    directories = {EXIF_IFD: own, GPS_IFD: dict(found.get_ifd(GPS_IFD))}
    return kept | {tag: directory for tag, directory in directories.items() if directory}


def _as_stored(value: Any) -> Any:
    """Texts beyond ASCII as the bytes they are: Pillow reads them as Latin-1, and would write question marks."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(_name(number) for number in numbers[:4])
    return f"{shown} and {len(numbers) - 4} more" if len(numbers) > 4 else shown


def _name(number: int) -> str:
    return f"{ExifTags.TAGS[number]} ({number})" if number in ExifTags.TAGS else str(number)
