"""The members of a zip archive, from its central directory; ambiguous archives are refused.

Two readers of one archive may see two different files where names repeat, headers disagree, or
members overlap. Such archives are refused, the rule named. Format: PKWARE APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import RefusedError, TruncatedError
from holdfast.formats.zip_directory import Entry, read_entries, refused
from holdfast.io.source import Source

_LOCAL = struct.Struct("<4s5H3I2H")
#: Members that are read whole, other than pickles, are small.
SMALL = 64 << 20
#: Pickles hold what is no tensor: names, numbers, NumPy arrays.
LARGEST_PICKLE = 4 << 30
#: Members other than storages may be compressed; what they unpack to stays below this.
_LARGEST_UNPACKED = 256 << 20


@dataclass(frozen=True, slots=True)
class Member:
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
    members: dict[str, Member] = {}
    folded: set[str] = set()
    for entry in entries:
        if entry.name.lower() in folded:
            raise refused(source, "no two members have the same name, nor differ in case", entry)
        folded.add(entry.name.lower())
        members[entry.name] = _locate(source, entry, directory_offset)
        if entry.name.endswith("/") and entry.nbytes:
            raise refused(source, "folders have no bytes", entry)
    _check_overlap(source, entries, members, directory_offset)
    return {name: member for name, member in members.items() if not name.endswith("/")}


def _locate(source: Source, entry: Entry, directory_offset: int) -> Member:
    """Read the local header, which alone says where the data starts."""
    size = _LOCAL.size + len(entry.raw_name)
    if entry.header_offset + size > directory_offset:
        raise refused(source, "members lie before the central directory", entry)
    header = source.read_at(entry.header_offset, size)
    offset = entry.header_offset + size + _check_local(source, entry, header)
    if offset + entry.nbytes > directory_offset:
        raise refused(source, "members lie before the central directory", entry)
    return Member(
        entry.name, offset, entry.nbytes, entry.crc, entry.method == 0, entry.unpacked_nbytes
    )


def _check_local(source: Source, entry: Entry, header: bytes) -> int:
    """Compare a local header with the central one; the bytes of its extra field."""
    signature, _, _, method, _, _, crc, packed, unpacked, name_size, extra_size = (
        _LOCAL.unpack_from(header)
    )
    if signature != b"PK\x03\x04":
        raise refused(source, "every member has a local header", entry)
    if header[_LOCAL.size :] != entry.raw_name or name_size != len(entry.raw_name):
        raise refused(source, "local and central headers name a member alike", entry)
    if method != entry.method:
        raise refused(source, "local and central headers agree on compression", entry)
    # Zero stands for "see the descriptor behind the data", all ones for "see the ZIP64 field".
    for local, central in ((packed, entry.nbytes), (unpacked, entry.unpacked_nbytes)):
        if local not in (0, 0xFFFFFFFF, central):
            raise refused(source, "local and central headers agree on sizes", entry)
    if crc not in (0, entry.crc):
        raise refused(source, "local and central headers agree on the CRC", entry)
    return int(extra_size)


def _check_overlap(
    source: Source, entries: list[Entry], members: Mapping[str, Member], directory_offset: int
) -> None:
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise refused(source, "members do not overlap", entry)
        member = members[entry.name]
        end = member.offset + member.nbytes


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
