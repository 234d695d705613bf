"""Unpacking what strangers packed, never more than allowed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from holdfast.io.source import Source

_CHUNK = 1 << 16
#: Members of gzip may be a few bytes long, and each makes what was read behind it be read again.
_SMALL_CHUNK = 1 << 10

#: How zlib is told what surrounds the packed bytes: nothing (a zip member), or gzip or zlib.
RAW, WRAPPED = -zlib.MAX_WBITS, zlib.MAX_WBITS + 32


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The bytes that came out, and whether more would come; ``is_broken``: not to the end.

    ``end`` is where the packed bytes end in the source; None if that was not reached.
    """

    data: bytes
    has_more: bool
    is_broken: bool
    end: int | None = None


def unpack(source: Source, most: int, window_bits: int) -> Unpacked:
    """Inflate a source from its beginning, at most so many bytes.

    Members of gzip right behind each other are one, as ``gzip`` reads them; zeros may be between.

    Raises:
        FileError: the file system said no.
    """
    parts: list[bytes] = []
    left = most
    unpacker, at, packed, chunk = zlib.decompressobj(window_bits), 0, b"", _CHUNK
    while left > 0:
        if not packed:
            packed = source.read_at(at, min(chunk, source.size - at))
            at, chunk = at + len(packed), _CHUNK
        try:
            part = unpacker.decompress(packed, min(left, 1 << 20))
        except zlib.error:
            return Unpacked(b"".join(parts), False, True)
        if not packed and not part and not unpacker.eof:
            return Unpacked(b"".join(parts), False, True)
        parts.append(part)
        left -= len(part)
        packed = unpacker.unconsumed_tail
        if unpacker.eof:
            end = at - len(unpacker.unused_data)
            following = None if window_bits == RAW else _next_gzip(source, end)
            if following is None:
                return Unpacked(b"".join(parts), False, False, end)
            at, packed, unpacker = following, b"", zlib.decompressobj(window_bits)
            chunk = _SMALL_CHUNK
    return Unpacked(b"".join(parts), True, False)


def _next_gzip(source: Source, end: int) -> int | None:
    """Where another member of gzip begins, zeros before it left aside; None if none follows."""
    at, nbytes = end, 2
    while at < source.size:
        data = source.read_at(at, min(nbytes, source.size - at))
        rest = data.lstrip(b"\0")
        at += len(data) - len(rest)
        if rest:
            return at if source.read_at(at, min(2, source.size - at)) == b"\x1f\x8b" else None
        nbytes = _CHUNK
    return None


def is_packed(head: bytes) -> bool:
    """Whether bytes begin as gzip or zlib do."""
    if head[:3] == b"\x1f\x8b\x08":
        return True
    return len(head) > 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0
