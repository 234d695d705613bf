"""CRC-32 at memory speed."""

from __future__ import annotations

from isal import isal_zlib


def crc32(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """The CRC-32 of ``data``, going on from ``value``; the GIL is released meanwhile."""
    return int(isal_zlib.crc32(data, value))
