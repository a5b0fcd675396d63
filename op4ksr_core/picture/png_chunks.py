"""A PNG's chunks: found without decoding, put in, left out."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UNPACKED_BY_ALL = 1 << 20
"""Bytes of a compressed chunk, unpacked, that every program takes."""

_HEAD_END = 33
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk behind the signature; the file then stands at the chunk's data."""
    place = len(SIGNATURE)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        if kind == b"IEND":
            return
        place += 12 + length


def chunk_data(path: Path, kinds: Sequence[bytes], most: int = 1024) -> dict[bytes, bytes]:
    """The data of the first chunk of each kind, up to `most` bytes of it."""
    found: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        for kind, length in chunks(file):
            if kind in kinds and kind not in found:
                found[kind] = file.read(min(length, most))
    return found


def pixels_alone(path: Path) -> bytes:
    """The file without any chunk that says something beside the pixels."""
    parts = [SIGNATURE]
    with path.open("rb") as file:
        for kind, length in chunks(file):
            if kind in _PIXELS:
                parts.append(struct.pack(">I4s", length, kind) + file.read(length + 4))
    return b"".join(parts)


def with_chunks(png: bytes, added: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The PNG with chunks behind its header."""
    return b"".join([png[:_HEAD_END], *(_chunk(kind, data) for kind, data in added), png[_HEAD_END:]])


def text_chunk(key: str, text: str) -> tuple[bytes, bytes]:
    """An iTXt chunk. `key` is 1 to 79 characters of Latin-1.

    Long texts are compressed, very long ones are not: programs built on Pillow refuse what unpacks to over 1 MiB.
    """
    data = text.encode("utf-8", "replace")
    compressed = 4096 < len(data) <= UNPACKED_BY_ALL
    body = zlib.compress(data) if compressed else data
    return b"iTXt", key.encode("latin-1") + b"\0" + bytes([compressed, 0]) + b"\0\0" + body


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
