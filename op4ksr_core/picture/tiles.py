"""Where tiles begin along an axis, so that all of it is covered."""

from ..errors import SettingError


def stepped_starts(length: int, side: int, step: int) -> list[int]:
    """A tile every `step`, the last one at the end of the axis; one tile where it covers the axis."""
    last = max(0, length - side)
    return [*range(0, last, step), last]


def even_starts(length: int, side: int, overlap: int) -> list[int]:
    """Tiles at even distances that share at least `overlap`, the last one at the end. Raises SettingError."""
    if side < 1 or not 0 <= overlap < side:
        raise SettingError(f"Tiles overlap by less than their side, got a side of {side} and overlap {overlap} px.")
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(n * (length - side) / (count - 1)) for n in range(count)]
