"""EXIF's orientation, 1 to 8: how a stored picture is turned upright."""

from typing import Any

import numpy as np

from ..geometry import Part, Size

ORIENTATION = 0x0112
"""The tag's number, in EXIF and in TIFF."""


def valid_orientation(value: Any) -> int:
    """The value if it is one; 1 for anything else that a file may hold there."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(size: Size, orientation: int) -> Size:
    """The size after the turn."""
    return Size(size.width, size.height) if orientation >= 5 else size


def stored(part: Part, size: Size, orientation: int) -> Part:
    """Where a part of the upright picture of that size lies in the stored one."""
    top = size.height - part.top - part.height if orientation in (3, 4, 7, 8) else part.top
    left = size.width - part.left - part.width if orientation in (2, 3, 6, 7) else part.left
    if orientation >= 5:
        return Part(top, left, part.height, part.width)
    return Part(left, top, part.width, part.height)


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array (H, W, ...)."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if orientation in (3, 4, 7, 8) else array
