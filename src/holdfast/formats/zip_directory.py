"""The end records and the central directory of a zip archive."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from holdfast.errors import RefusedError, TruncatedError
from holdfast.io.source import Source

#: More members than any checkpoint has (one per storage), few enough to be read in seconds.
MOST_ENTRIES = 1_000_000

_LARGEST_DIRECTORY = 256 * MOST_ENTRIES

_END = struct.Struct("<4s4H2IH")
_LOCATOR64 = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LONGEST_COMMENT = 0xFFFF
#: Steps between single slashes, none of them "." or "..", no backslash, no drive letter.
_PLAIN_PATH = re.compile(r"(?!\.{1,2}(/|\Z))[^/\\:\0]+(/(?!\.{1,2}(/|\Z))[^/\\\0]+)*/?")
_IS_ENCRYPTED = 0x0001 | 0x0040 | 0x2000


class Entry(NamedTuple):
    """One entry of the central directory; ``nbytes`` are those in the file."""

    name: str
    raw_name: bytes
    header_offset: int
    nbytes: int
    unpacked_nbytes: int
    crc: int
    method: int


def refused(source: Source, rule: str, entry: Entry | None = None) -> RefusedError:
    """The error for an archive that two readers could read differently."""
    return RefusedError(
        f"refused: {rule}",
        file=source.name,
        member=None if entry is None else entry.name,
        cure="The archive is broken, or made so that two programs see two different files in it.",
    )


def read_entries(source: Source) -> tuple[list[Entry], int]:
    """The entries in order, and the offset where the central directory starts.

    Raises:
        TruncatedError: the end record is missing.
        RefusedError: the end records disagree, or do not fit the file.
    """
    offset, nbytes, count = _read_end(source)
    if count > MOST_ENTRIES or nbytes > _LARGEST_DIRECTORY:
        raise refused(source, f"an archive has at most {MOST_ENTRIES:,} members")
    data = source.read_at(offset, nbytes)
    entries, position = [], 0
    for _ in range(count):
        entry, position = _read_entry(source, data, position)
        entries.append(entry)
    if position != nbytes:
        raise refused(source, "the central directory holds its entries and nothing else")
    return entries, offset


def _read_end(source: Source) -> tuple[int, int, int]:
    """Offset and size (bytes) of the central directory, and its number of entries."""
    start = source.size - _END.size
    if start < 0:
        raise _no_end(source)
    end = _END.unpack(source.read_at(start, _END.size))
    if end[0] != b"PK\x05\x06" or end[7] != 0:
        raise _misplaced_end(source)
    _, disk, first_disk, here, count, nbytes, offset, _ = end
    wide = _read_end64(source, start)
    if wide is not None:
        narrow = ((count, 0xFFFF), (nbytes, 0xFFFFFFFF), (offset, 0xFFFFFFFF))
        for (value, too_big), exact in zip(narrow, (wide[2], wide[1], wide[0]), strict=True):
            if value not in (too_big, exact):
                raise refused(source, "both end records say the same")
        offset, nbytes, count, start = wide
    elif disk or first_disk or here != count:
        raise refused(source, "an archive is one file")
    if offset + nbytes != start:
        raise refused(source, "the central directory ends where the end record begins")
    return offset, nbytes, count


def _read_end64(source: Source, end: int) -> tuple[int, int, int, int] | None:
    """Offset, size, count of the central directory, and where its ZIP64 end record lies."""
    at = end - _LOCATOR64.size
    if at < 0:
        return None
    signature, disk, start, disks = _LOCATOR64.unpack(source.read_at(at, _LOCATOR64.size))
    if signature != b"PK\x06\x07":
        return None
    if disk or disks != 1 or start + _END64.size != at:
        raise refused(source, "the ZIP64 end record lies right before its locator")
    record = _END64.unpack(source.read_at(start, _END64.size))
    signature, size, _, _, disk, first_disk, here, count, nbytes, offset = record
    if signature != b"PK\x06\x06" or size != _END64.size - 12 or disk or first_disk:
        raise refused(source, "the ZIP64 end record lies right before its locator")
    if here != count:
        raise refused(source, "an archive is one file")
    return offset, nbytes, count, start


def _read_entry(source: Source, data: bytes, position: int) -> tuple[Entry, int]:
    if position + _CENTRAL.size > len(data):
        raise refused(source, "the central directory holds its entries and nothing else")
    (signature, _, _, flags, method, _, _, crc, packed, unpacked, name_size, extra_size,
     comment_size, disk, _, _, offset) = _CENTRAL.unpack_from(data, position)  # fmt: skip
    start = position + _CENTRAL.size
    end = start + name_size + extra_size + comment_size
    if signature != b"PK\x01\x02" or end > len(data):
        raise refused(source, "the central directory holds its entries and nothing else")
    raw_name = data[start : start + name_size]
    if 0xFFFFFFFF in (packed, unpacked, offset):
        extra = data[start + name_size : start + name_size + extra_size]
        unpacked, packed, offset = _widened(source, extra, unpacked, packed, offset)
    entry = Entry(_decoded(raw_name), raw_name, offset, packed, unpacked, crc, method)
    if flags & _IS_ENCRYPTED or disk or method not in (0, 8):
        raise refused(source, "members are stored or deflated, and not encrypted", entry)
    if method == 0 and packed != unpacked:
        raise refused(source, "a stored member has one size", entry)
    if not _PLAIN_PATH.fullmatch(entry.name):
        raise refused(source, "names of members are plain paths", entry)
    return entry, end


def _widened(source: Source, extra: bytes, *narrow: int) -> list[int]:
    """The 64-bit values of the fields that are all ones, from the ZIP64 extra field."""
    field = b""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + size]
            break
        at += 4 + size
    values, at = [], 0
    for value in narrow:
        if value == 0xFFFFFFFF:
            if at + 8 > len(field):
                raise refused(source, "a member over 4 GiB has its ZIP64 field")
            value = int.from_bytes(field[at : at + 8], "little")
            at += 8
        values.append(value)
    return values


def _decoded(raw_name: bytes) -> str:
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        return raw_name.decode("cp437")  # what a name without the UTF-8 flag is by the standard


def _misplaced_end(source: Source) -> RefusedError | TruncatedError:
    """Tell a file that was cut off from one that goes on behind the archive."""
    nbytes = min(source.size, _END.size + _LONGEST_COMMENT)
    tail = source.read_at(source.size - nbytes, nbytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or nbytes - at < _END.size:
        return _no_end(source)
    return refused(source, "nothing follows the end record of an archive")


def _no_end(source: Source) -> TruncatedError:
    return TruncatedError(
        "this zip archive has no end: the file ends too early",
        file=source.name,
        found=f"{source.size:,} bytes",
        cure="It was not written or copied to its end: get it again, or use an earlier one.",
    )
