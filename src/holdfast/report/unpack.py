"""Unpacking what strangers packed, never more than allowed."""

from __future__ import annotations

import re
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
        if not packed and not part:
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
    # One that needs a dictionary from elsewhere unpacks nowhere; text, "x = 1", looks like it.
    is_zlib = len(head) > 2 and head[0] == 0x78 and not head[1] & 0x20
    return is_zlib and int.from_bytes(head[:2], "big") % 31 == 0


_PACKINGS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x04\x22\x4d\x18": "lz4",
}
#: The size in hexadecimal digits follows (joblib/numpy_pickle_compat.py).
_OLD_JOBLIB = re.compile(rb"ZF[0-9a-fA-FxX_+ ]{19}")
#: liblzma takes streams that say they unpack to less than this (alone_decoder.c).
_MOST_LZMA = 1 << 38
_LZMA_MEMORY = 64 << 20


def packing_of(head: bytes, *, is_whole: bool) -> str | None:
    """What some bytes are packed with that nothing here unpacks; None where they are not."""
    for beginning, name in _PACKINGS.items():
        if head.startswith(beginning):
            return name
    if head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5:  # a frame to be passed over
        return "zstd or lz4"
    if is_whole and _OLD_JOBLIB.match(head):
        return "zlib, by an old joblib"
    # It has no signature: numbers in the middle of a file look like it.
    return "lzma" if is_whole and _is_lzma(head) else None


def _is_lzma(head: bytes) -> bool:
    """Whether bytes may be an LZMA stream: properties, size of the dictionary, unpacked size.

    The first byte of the packed data is always 0.
    """
    if len(head) < 14 or head[0] >= 9 * 5 * 5 or head[13]:
        return False
    dictionary, nbytes = (int.from_bytes(head[a:b], "little") for a, b in ((1, 5), (5, 13)))
    is_usual = bin(dictionary).count("1") <= 2 or dictionary == 0xFFFFFFFF
    is_sized = 0 < nbytes < _MOST_LZMA or nbytes == 0xFFFFFFFFFFFFFFFF
    return is_sized and (is_usual or head.startswith(b"]\0")) and _unpacks_as_lzma(head)


def _unpacks_as_lzma(head: bytes) -> bool:
    """Whether the beginning of a stream unpacks: numbers that look like one are an error soon."""
    try:
        import lzma  # few files begin so, and not every Python has it
    except ImportError:
        return True
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)
    try:
        unpacker.decompress(head, max_length=_CHUNK)
    except lzma.LZMAError as error:
        return "memory" in str(error).lower()
    return True
