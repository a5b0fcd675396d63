"""The picture formats that are read and written, and what each can hold. No torch, no Pillow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format that can be written. `suffixes`: the first is a new file's; files with any of them are read."""

    name: str
    suffixes: tuple[str, ...]
    max_side: int | None = None
    """px; None: no limit of its own."""
    deep: bool = False
    """Holds 16 bits a channel."""
    alpha: bool = True
    iptc: bool = False
    comment: bool = False
    texts: bool = False
    """PNG's texts."""
    stated_colour: bool = False
    """States a colour space without a profile; the others hold a profile in its place, and nothing of HDR."""
    grey: bool = True
    """Holds grey as grey, and an alpha that is 1 everywhere."""


WRITABLE = {
    one.name: one
    for one in (
        Format("png", (".png",), deep=True, comment=True, texts=True, stated_colour=True),
        Format("jpg", (".jpg", ".jpeg", ".jfif", ".jpe"), max_side=65_535, alpha=False, iptc=True, comment=True),
        Format("webp", (".webp",), max_side=16_383, grey=False),
        Format("tiff", (".tif", ".tiff"), deep=True, iptc=True),
    )
}
"""By name. A new one also needs its encoder in `picture/write.py` and, to be read, Pillow's name for it below."""

READABLE = (*(suffix for one in WRITABLE.values() for suffix in one.suffixes), ".bmp", ".gif")
"""Suffixes of pictures that are read."""

PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB")
"""What Pillow may take a file for, whatever its suffix; TIFF goes another way."""


def written_as(suffix: str) -> Format | None:
    """The format of a file's suffix, in lower case; None where it is not written."""
    return next((one for one in WRITABLE.values() if suffix in one.suffixes), None)
