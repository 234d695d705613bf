"""The members of a zip archive, from its central directory; ambiguous archives are refused.

Two readers of one archive may see two different files where names repeat, headers disagree, or
members overlap. Such archives are refused, the rule named. Format: PKWARE APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from holdfast.errors import RefusedError, TruncatedError
from holdfast.formats.zip_directory import Entry, read_entries, refused
from holdfast.io.source import Source

_LOCAL = struct.Struct("<4s5H3I2H")
_SEE_ZIP64 = 0xFFFFFFFF
#: Local headers nearer than a page, which a disk gives whole, are read together, so many bytes.
_NEAR, _WINDOW = 4 << 10, 1 << 20
#: Members that are read whole, other than pickles, are small.
SMALL = 64 << 20
#: Pickles hold what is no tensor: names, numbers, NumPy arrays.
LARGEST_PICKLE = 4 << 30
#: Members other than storages may be compressed; what they unpack to stays below this.
_LARGEST_UNPACKED = 256 << 20


class Member(NamedTuple):
    """One member: where its bytes lie in the file, and the CRC-32 they should have.

    ``name`` is the whole one, ``root/data/0``. ``nbytes`` are those in the file.
    """

    name: str
    offset: int
    nbytes: int
    crc: int
    is_stored: bool = True
    unpacked_nbytes: int = 0


def read_members(source: Source) -> dict[str, Member]:
    """All members by name, in the order of the central directory; folders are left out.

    Raises:
        TruncatedError: the end of the archive is missing.
        RefusedError: two readers could disagree on what the archive holds.
    """
    entries, directory_offset = read_entries(source)
    folded: set[str] = set()
    for entry in entries:
        name = entry.name.lower()
        if name in folded:
            raise refused(source, "no two members have the same name, nor differ in case", entry)
        folded.add(name)
        if name.endswith("/") and entry.nbytes:
            raise refused(source, "folders have no bytes", entry)
    found: dict[str, Member] = {}
    end = 0
    for entry, header in _local_headers(source, entries, directory_offset):
        found[entry.name] = member = _locate(source, entry, header, directory_offset)
        if entry.header_offset < end:
            raise refused(source, "members do not overlap", entry)
        end = member.offset + member.nbytes
    return {entry.name: found[entry.name] for entry in entries if not entry.name.endswith("/")}


def _local_headers(
    source: Source, entries: list[Entry], directory_offset: int
) -> Iterator[tuple[Entry, bytes]]:
    """Each entry with its local header and name, in the order they lie in the file.

    Headers that lie close together are read at once: ten thousand small tensors are no ten
    thousand reads.
    """
    window, start = b"", 0
    ordered = sorted(entries, key=_header_offset)
    for position, entry in enumerate(ordered):
        size = _LOCAL.size + len(entry.raw_name)
        if entry.header_offset + size > directory_offset:
            raise refused(source, "members lie before the central directory", entry)
        at = entry.header_offset - start
        if at + size > len(window):
            start, at = entry.header_offset, 0
            window = source.read_at(start, _window(ordered, position, directory_offset))
        yield entry, window[at : at + size]


def _window(ordered: list[Entry], position: int, directory_offset: int) -> int:
    """How many bytes to read so that the headers behind this one come with it, without waste."""
    start = end = ordered[position].header_offset
    for entry in islice(ordered, position, None):
        if entry.header_offset > end + _NEAR or entry.header_offset > start + _WINDOW:
            break
        end = max(end, entry.header_offset + _LOCAL.size + len(entry.raw_name))
    return min(end, directory_offset) - start


_header_offset = attrgetter("header_offset")


def _locate(source: Source, entry: Entry, header: bytes, directory_offset: int) -> Member:
    """The place of a member's data, which its local header alone says; both headers must agree."""
    name, raw_name, start, nbytes, unpacked_nbytes, expected_crc, expected_method = entry
    signature, _, _, method, _, _, crc, packed, unpacked, name_size, extra_size = (
        _LOCAL.unpack_from(header)
    )
    if signature != b"PK\x03\x04":
        raise refused(source, "every member has a local header", entry)
    if name_size != len(raw_name) or not header.endswith(raw_name):
        raise refused(source, "local and central headers name a member alike", entry)
    if method != expected_method:
        raise refused(source, "local and central headers agree on compression", entry)
    # Zero stands for "see the descriptor behind the data", all ones for "see the ZIP64 field".
    if packed not in (0, _SEE_ZIP64, nbytes) or unpacked not in (0, _SEE_ZIP64, unpacked_nbytes):
        raise refused(source, "local and central headers agree on sizes", entry)
    if crc not in (0, expected_crc):
        raise refused(source, "local and central headers agree on the CRC", entry)
    offset = start + len(header) + extra_size
    if offset + nbytes > directory_offset:
        raise refused(source, "members lie before the central directory", entry)
    return Member(name, offset, nbytes, expected_crc, method == 0, unpacked_nbytes)


def read_member(source: Source, member: Member, *, most: int = SMALL) -> bytes:
    """The bytes of a member of at most so many bytes, unpacked.

    Raises:
        RefusedError: it is larger, or unpacks to more than it says.
        TruncatedError: the file ends before them.
    """
    if member.nbytes > most:
        raise RefusedError(
            "refused: members other than storages are small",
            file=source.name,
            member=member.name,
            wanted=f"at most {most:,} bytes",
            found=f"{member.nbytes:,}",
        )
    data = source.read_at(member.offset, member.nbytes)
    if member.is_stored:
        return data
    if member.unpacked_nbytes > _LARGEST_UNPACKED:
        raise _bomb(source, member)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(data, member.unpacked_nbytes + 1)
    except zlib.error as error:
        raise TruncatedError(
            "a compressed member cannot be unpacked", file=source.name, member=member.name
        ) from error
    if len(unpacked) != member.unpacked_nbytes:
        raise _bomb(source, member)
    return unpacked


def _bomb(source: Source, member: Member) -> RefusedError:
    return RefusedError(
        "refused: a compressed member unpacks to the size it states, which is small",
        file=source.name,
        member=member.name,
        wanted=f"at most {_LARGEST_UNPACKED:,} bytes",
        found=f"{member.unpacked_nbytes:,} stated",
    )
