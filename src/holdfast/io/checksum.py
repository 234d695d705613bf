"""CRC-32 at memory speed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from isal import isal_zlib

if TYPE_CHECKING:
    from holdfast.io.source import Source

#: Bytes read and checked at a time: small enough that the CRC finds them in the cache, large enough
#: that several threads seldom wait for Python's lock (1 MiB: a tenth slower with four of them).
CHUNK = 2 << 20
#: What compressed members unpack to stays below this: they are never storages.
LARGEST_UNPACKED = 256 << 20


def crc32(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """The CRC-32 of ``data``, going on from ``value``; the GIL is released meanwhile."""
    return int(isal_zlib.crc32(data, value))


def crc32_combine(first: int, second: int, nbytes: int) -> int:
    """The CRC-32 of two runs of bytes, from that of each and the length of the second."""
    return int(isal_zlib.crc32_combine(first, second, nbytes))


def crc32_of(
    source: Source,
    offset: int,
    nbytes: int,
    *,
    chunk: int = CHUNK,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """The CRC-32 of ``nbytes`` bytes of a source; ``on_progress`` gets the bytes of each chunk.

    Raises:
        TruncatedError: the source ends before them.
    """
    buffer = memoryview(bytearray(min(chunk, nbytes)))
    value = 0
    for start in range(0, nbytes, chunk):
        part = buffer[: min(chunk, nbytes - start)]
        source.read_into(offset + start, part)
        value = crc32(part, value)
        if on_progress is not None:
            on_progress(part.nbytes)
    return value


def crc32_of_deflated(
    source: Source,
    offset: int,
    nbytes: int,
    *,
    chunk: int = CHUNK,
    on_progress: Callable[[int], object] | None = None,
) -> int | None:
    """The CRC-32 of what deflated bytes of a source unpack to; None where they do not unpack.

    About a chunk is unpacked at a time, and no more than ``LARGEST_UNPACKED`` in all.

    Raises:
        TruncatedError: the source ends before them.
    """
    unpacker, value, left = zlib.decompressobj(-zlib.MAX_WBITS), 0, LARGEST_UNPACKED
    for start in range(0, nbytes, chunk):
        packed = source.read_at(offset + start, min(chunk, nbytes - start))
        if on_progress is not None:
            on_progress(len(packed))
        try:
            while packed and not unpacker.eof and left >= 0:
                unpacked = unpacker.decompress(packed, chunk)
                value, left = crc32(unpacked, value), left - len(unpacked)
                packed = unpacker.unconsumed_tail
        except zlib.error:
            return None
    value = crc32(unpacker.flush(), value)
    return value if unpacker.eof and left >= 0 else None


def read_checked(source: Source, offset: int, view: memoryview, *, chunk: int = CHUNK) -> int:
    """Fill ``view`` from ``offset`` on and return the CRC-32 of what was read.

    Raises:
        TruncatedError: the source ends before it.
    """
    value = 0
    for start in range(0, view.nbytes, chunk):
        part = view[start : start + chunk]
        source.read_into(offset + start, part)
        value = crc32(part, value)
    return value
