"""Unpacking what strangers packed, never more than allowed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from holdfast.io.source import Source

_CHUNK = 1 << 16

#: How zlib is told what surrounds the packed bytes: nothing (a zip member), or gzip or zlib.
RAW, WRAPPED = -zlib.MAX_WBITS, zlib.MAX_WBITS + 32


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The bytes that came out, and whether more would come; ``is_broken``: not to the end."""

    data: bytes
    has_more: bool
    is_broken: bool


def unpack(source: Source, most: int, window_bits: int) -> Unpacked:
    """Inflate a source from its beginning, at most so many bytes.

    Raises:
        FileError: the file system said no.
    """
    parts: list[bytes] = []
    left = most
    unpacker, at, packed = zlib.decompressobj(window_bits), 0, b""
    while left > 0:
        if not packed:
            packed = source.read_at(at, min(_CHUNK, source.size - at))
            at += len(packed)
        if not packed and unpacker.eof:
            return Unpacked(b"".join(parts), False, False)
        try:
            part = unpacker.decompress(packed, min(left, 1 << 20))
        except zlib.error:
            return Unpacked(b"".join(parts), False, True)
        if not packed and not part:
            return Unpacked(b"".join(parts), False, True)
        parts.append(part)
        left -= len(part)
        packed = unpacker.unconsumed_tail
        if unpacker.eof:
            packed = unpacker.unused_data
            if window_bits == RAW or not _goes_on(packed, source, at):
                return Unpacked(b"".join(parts), False, False)
            unpacker = zlib.decompressobj(window_bits)
    return Unpacked(b"".join(parts), True, False)


def _goes_on(rest: bytes, source: Source, at: int) -> bool:
    """Whether another gzip member follows, as ``gzip`` itself would read it."""
    return (rest + source.read_at(at, min(2, source.size - at)))[:2] == b"\x1f\x8b"


def is_packed(head: bytes) -> bool:
    """Whether bytes begin as gzip or zlib do."""
    if head[:3] == b"\x1f\x8b\x08":
        return True
    return len(head) > 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0
