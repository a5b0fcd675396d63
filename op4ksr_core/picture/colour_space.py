"""Colour that a PNG states without a profile: cICP, sRGB, gAMA and cHRM, and what is made of it.

Where several are there, the first of cICP, ICC profile, sRGB, gAMA with cHRM holds (PNG, third edition, section 4.3).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import ImageError

_HDR = (b"mDCV", b"cLLI")
PNG_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM", *_HDR)

_SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""White, red, green, blue as x, y."""

_PRIMARIES = {
    1: _SRGB_PRIMARIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""ITU-T H.273, table 2."""

_TRANSFERS: dict[int, str | float] = {
    1: "BT.709", 4: 2.2, 5: 2.8, 6: "BT.709", 8: 1.0, 13: "sRGB", 14: "BT.709", 15: "BT.709", 16: "PQ", 18: "HLG",
}  # fmt: skip
"""ITU-T H.273, table 3."""

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])
_SAME_GAMMA = 0.005


@dataclass(frozen=True)
class StatedColour:
    """primaries: white, red, green, blue as x, y. transfer: a gamma, or sRGB, BT.709, PQ, HLG. chunks: for a PNG."""

    by: str
    primaries: tuple[float, ...]
    transfer: str | float
    chunks: tuple[tuple[bytes, bytes], ...]

    @property
    def is_srgb(self) -> bool:
        """Whether it means what a file without any statement means."""
        near = max(abs(a - b) for a, b in zip(self.primaries, _SRGB_PRIMARIES, strict=True)) < 0.002
        return near and self.transfer == "sRGB"

    @property
    def is_hdr(self) -> bool:
        """PQ and HLG, which no ICC profile of three curves describes."""
        return self.transfer in ("PQ", "HLG")

    @property
    def is_linear(self) -> bool:
        """Values are proportional to light; they are coded as sRGB when read."""
        return self.transfer == 1.0

    def coded(self) -> "StatedColour":
        """The same primaries with sRGB's curve: what linear values are once `coded_as_srgb` has been over them."""
        if self.by == "cICP":
            code = self.chunks[0][1]
            head = (b"cICP", code[:1] + b"\x0d" + code[2:])
        else:
            head = (b"gAMA", struct.pack(">I", 45455))
        chunks = (head, *(pair for pair in self.chunks if pair[0] == b"cHRM"))
        return StatedColour(self.by, self.primaries, "sRGB", chunks)

    def __str__(self) -> str:
        curve = self.transfer if isinstance(self.transfer, str) else f"gamma {self.transfer:.3g}"
        return f"{self.by} ({curve}, red at {self.primaries[2]:.3g}, {self.primaries[3]:.3g})"


def stated_colour(
    path: object, found: Mapping[bytes, bytes], has_profile: bool
) -> tuple[StatedColour | None, list[str]]:
    """What holds of a PNG's colour chunks, None where it is its profile or nothing; and notes.

    Raises ImageError on what would come out wrong: luma and chroma, or a limited range.
    """
    notes: list[str] = []
    if len(found.get(b"cICP", b"")) == 4:
        stated = _from_cicp(path, found)
        if stated is not None:
            return stated, notes
        notes.append(f"cICP {_codes(found[b'cICP'])} is no colour space that is known here, not kept")
    if has_profile:
        below = [kind.decode() for kind in (b"sRGB", b"gAMA", b"cHRM") if kind in found]
        if below:
            notes.append(f"{', '.join(below)} not kept: the ICC profile comes first")
        return None, notes
    if b"sRGB" in found:
        return StatedColour("sRGB", _SRGB_PRIMARIES, "sRGB", _chosen(found, b"sRGB", b"gAMA", b"cHRM")), notes
    stated = _from_gamma(found)
    if stated is None and (b"gAMA" in found or b"cHRM" in found):
        notes.append("gAMA or cHRM is damaged and left out")
    return stated, notes


def _chosen(found: Mapping[bytes, bytes], *kinds: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((kind, found[kind]) for kind in kinds if kind in found)


def _codes(data: bytes) -> str:
    return "/".join(map(str, data))


def _from_cicp(path: object, found: Mapping[bytes, bytes]) -> StatedColour | None:
    data = found[b"cICP"]
    primaries, transfer, matrix, full = data
    if matrix != 0 or full != 1:
        raise ImageError(
            f"{path} states cICP {_codes(data)}: only full-range RGB (matrix 0, range 1) is read. Convert it to sRGB."
        )
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    return StatedColour("cICP", _PRIMARIES[primaries], _TRANSFERS[transfer], _chosen(found, b"cICP", *_HDR))


def _from_gamma(found: Mapping[bytes, bytes]) -> StatedColour | None:
    primaries, transfer = _SRGB_PRIMARIES, "sRGB"
    if b"cHRM" in found:
        if len(found[b"cHRM"]) != 32:
            return None
        primaries = tuple(value / 100_000 for value in struct.unpack(">8I", found[b"cHRM"]))
        if not _is_possible(primaries):
            return None
    curve: str | float = transfer
    if b"gAMA" in found:
        value = struct.unpack(">I", found[b"gAMA"])[0] if len(found[b"gAMA"]) == 4 else 0
        if not 1_000 <= value <= 10_000_000:
            return None
        curve = _curve(value / 100_000)
    chunks = _chosen(found, b"gAMA", b"cHRM")
    names = " and ".join(kind.decode() for kind, _ in chunks)
    return StatedColour(names, primaries, curve, chunks) if chunks else None


def _curve(gamma: float) -> str | float:
    """The curve that gAMA means: 1/2.2 stands for sRGB's own."""
    if abs(gamma - 0.45455) < _SAME_GAMMA:
        return "sRGB"
    return 1.0 if abs(gamma - 1) < _SAME_GAMMA else 1 / gamma


def _is_possible(primaries: tuple[float, ...]) -> bool:
    """Whether red, green and blue span a triangle and white has light."""
    if any(y <= 0 for y in primaries[1::2]):
        return False
    (rx, ry), (gx, gy), (bx, by) = primaries[2:4], primaries[4:6], primaries[6:8]
    return abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry)) > 1e-4


def coded_as_srgb(linear: Tensor) -> Tensor:
    """Light in [0, 1] by sRGB's curve (IEC 61966-2-1), in [0, 1]."""
    return (1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055).where(linear > 0.0031308, 12.92 * linear)


def profile_of(stated: StatedColour, grey: bool = False) -> bytes:
    """An ICC profile (version 2, matrix and curves, ICC.1:2001-04) of that colour space, for formats without chunks.

    Raises ValueError for PQ and HLG.
    """
    if stated.is_hdr:
        raise ValueError(f"{stated.transfer} has no such profile")
    curve = _curve_tag(stated.transfer)
    tags = {b"desc": _description(f"{stated}"), b"cprt": b"text\0\0\0\0No copyright\0", b"wtpt": _xyz(_D50)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        columns = _colorants(stated.primaries)
        tags |= {name: _xyz(columns[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += padded
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    space = b"GRAY" if grey else b"RGB "
    head = bytes(8) + b"\x02\x40\0\0mntr" + space + b"XYZ " + date + b"acsp" + bytes(28) + _numbers(_D50) + bytes(48)
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def _colorants(primaries: tuple[float, ...]) -> np.ndarray:
    """(3, 3): XYZ of red, green and blue, adapted to D50 by Bradford's matrix."""
    points = np.array(primaries).reshape(4, 2)
    xyz = np.stack([points[:, 0] / points[:, 1], np.ones(4), (1 - points.sum(1)) / points[:, 1]])
    white, colorants = xyz[:, 0], xyz[:, 1:]
    scaled = colorants * np.linalg.solve(colorants, white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    return np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ scaled


def _curve_tag(transfer: str | float) -> bytes:
    if not isinstance(transfer, str):
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, min(65535, round(transfer * 256)))
    x = np.linspace(0, 1, 1024)
    if transfer == "sRGB":
        y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    else:
        y = np.where(x < 0.081, x / 4.5, ((x + 0.099) / 1.099) ** (1 / 0.45))
    return b"curv\0\0\0\0" + struct.pack(">I", len(x)) + (y * 65535).round().astype(">u2").tobytes()


def _numbers(values: np.ndarray) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _numbers(values)


def _description(text: str) -> bytes:
    words = text.encode("ascii", "replace") + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(words)) + words + bytes(78)
