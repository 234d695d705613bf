"""The layout of a torch zip file, known whole before its first byte is written.

Byte for byte what ``torch.save`` writes (torch 2.13, miniz inside): every member stored, its data
aligned by an ``FB`` extra field, sizes and CRC in a descriptor behind it, always a ZIP64 end
record. As every offset is known beforehand, bytes can be written in any order, and the CRCs last.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from holdfast.io.checksum import crc32

if TYPE_CHECKING:
    from holdfast.io.sink import Buffer, Sink

    Payload: TypeAlias = Buffer | Callable[[Mapping[str, int]], bytes] | Iterator[Buffer]

ALIGNMENT = 64
#: From here on a size or an offset needs ZIP64 fields (miniz compares with >=).
ZIP64_FROM = 0xFFFFFFFF

_HAS_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4sIII"), struct.Struct("<4sIQQ")
_PADDING = struct.Struct("<2sH")
#: Members up to this size are handed on together, so many bytes at a time: a state dict may have
#: thousands of them.
_SMALL, _GATHERED = 64 << 10, 256 << 10
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")


class Member(NamedTuple):
    """One member of the archive with its place.

    ``header_offset`` is where the local header starts, ``data_offset`` where the ``nbytes`` of data
    do; the descriptor follows the data.
    """

    name: str
    nbytes: int
    header_offset: int
    data_offset: int

    @property
    def is_zip64(self) -> bool:
        """Whether sizes or the header's offset need 64 bits."""
        return self.nbytes >= ZIP64_FROM or self.header_offset >= ZIP64_FROM

    @property
    def descriptor_nbytes(self) -> int:
        """The bytes of the descriptor: 0 for an empty member, else 16 or 24."""
        if self.nbytes == 0:
            return 0
        return 24 if self.is_zip64 else 16

    @property
    def end(self) -> int:
        """The offset just behind the descriptor."""
        return self.data_offset + self.nbytes + self.descriptor_nbytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every byte of the archive goes; ``nbytes`` is the size of the whole file."""

    members: tuple[Member, ...]
    alignment: int = ALIGNMENT

    @property
    def directory_offset(self) -> int:
        """Where the central directory starts."""
        return self.members[-1].end if self.members else 0

    @property
    def nbytes(self) -> int:
        """The size of the whole file in bytes."""
        return self.directory_offset + _directory_nbytes(self)


def layout(root: str, sizes: Sequence[tuple[str, int]], *, alignment: int = ALIGNMENT) -> Layout:
    """Place members of the given names and sizes (bytes) in the folder ``root``, in order."""
    members = []
    cursor = 0
    for name, nbytes in sizes:
        full = f"{root}/{name}"
        start = cursor + _LOCAL.size + len(full.encode()) + len(_zip64(nbytes, 0, cursor)) + 4
        member = Member(full, nbytes, cursor, start + -start % alignment)
        members.append(member)
        cursor = member.end
    return Layout(tuple(members), alignment)


def local_header(member: Member) -> bytes:
    """The bytes before a member's data: header, name, ZIP64 field, padding up to the data."""
    name = member.name.encode()
    # The sizes are not known to torch's writer when it writes this; the compressed one stays 0.
    extra = _zip64(member.nbytes, 0, member.header_offset)
    room = member.data_offset - member.header_offset - _LOCAL.size - len(name) - len(extra) - 4
    extra += _PADDING.pack(b"FB", room) + b"Z" * room
    flags = _UTF8 | (_HAS_DESCRIPTOR if member.nbytes else 0)
    fields = (b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(name), len(extra))
    return _LOCAL.pack(*fields) + name + extra


def descriptor(member: Member, crc: int) -> bytes:
    """The bytes behind a member's data: CRC-32 and sizes; nothing for an empty member."""
    if member.nbytes == 0:
        return b""
    form = _DESCRIPTOR64 if member.is_zip64 else _DESCRIPTOR
    return form.pack(b"PK\x07\x08", crc, member.nbytes, member.nbytes)


def _directory_nbytes(plan: Layout) -> int:
    fixed = _END64.size + _LOCATOR64.size + _END.size
    entries = (
        _CENTRAL.size + len(m.name.encode()) + len(_zip64(m.nbytes, m.nbytes, m.header_offset))
        for m in plan.members
    )
    return sum(entries) + fixed


def crc_offsets(plan: Layout, number: int) -> tuple[int, ...]:
    """Where in the file the CRC-32 of a member stands: behind its data, and in the directory."""
    member = plan.members[number]
    if member.nbytes == 0:
        return ()
    before = sum(len(_central(each, 0)) for each in plan.members[:number])
    return (member.data_offset + member.nbytes + 4, plan.directory_offset + before + 16)


def directory(plan: Layout, crcs: Mapping[str, int]) -> bytes:
    """The central directory and the end records; a CRC that is missing is written as 0."""
    entries = b"".join(_central(member, crcs.get(member.name, 0)) for member in plan.members)
    start, count = plan.directory_offset, len(plan.members)
    end = start + len(entries)
    end64 = _END64.pack(
        b"PK\x06\x06", _END64.size - 12, 0x031E, 45, 0, 0, count, count, len(entries), start
    )
    locator = _LOCATOR64.pack(b"PK\x06\x07", 0, end, 1)
    few = min(count, 0xFFFF)
    last = _END.pack(
        b"PK\x05\x06", 0, 0, few, few, min(len(entries), ZIP64_FROM), min(start, ZIP64_FROM), 0
    )
    return entries + end64 + locator + last


def _central(member: Member, crc: int) -> bytes:
    name = member.name.encode()
    extra = _zip64(member.nbytes, member.nbytes, member.header_offset)
    size = min(member.nbytes, ZIP64_FROM)
    flags = _UTF8 | (_HAS_DESCRIPTOR if member.nbytes else 0)
    offset = min(member.header_offset, ZIP64_FROM)
    head = (b"PK\x01\x02", 0, 0, flags, 0, 0, 0, crc if member.nbytes else 0, size, size)
    return _CENTRAL.pack(*head, len(name), len(extra), 0, 0, 0, 0, offset) + name + extra


def _zip64(nbytes: int, compressed_nbytes: int, header_offset: int) -> bytes:
    """The ZIP64 extra field, with the fields that do not fit in 32 bits; empty when all fit."""
    if nbytes < ZIP64_FROM and header_offset < ZIP64_FROM:
        return b""
    fields = b""
    if nbytes >= ZIP64_FROM:
        fields += struct.pack("<QQ", nbytes, compressed_nbytes)
    if header_offset >= ZIP64_FROM:
        fields += struct.pack("<Q", header_offset)
    return struct.pack("<HH", 1, len(fields)) + fields


def fill(plan: Layout, payloads: Iterable[Payload], sink: Sink) -> dict[str, int]:
    """Write the whole file front to back; return each member's CRC-32.

    ``payloads`` gives the bytes of each member in the layout's order, as a buffer, as pieces one
    behind the other, or as a function of the CRCs so far (torch writes a digest of the others as
    its last member); each is asked for only when its turn comes.
    """
    crcs: dict[str, int] = {}
    gathered: list[bytes | memoryview] = []
    first = 0  # where in the file the gathered bytes begin
    for member, payload in zip(plan.members, payloads, strict=True):
        gathered.append(local_header(member))
        if isinstance(payload, bytes | memoryview) and member.nbytes <= _SMALL:
            nbytes, crc = memoryview(payload).nbytes, crc32(payload)
            gathered.append(payload)
        else:
            sink(b"".join(gathered))
            gathered.clear()
            nbytes, crc = _fill_member(_pieces(payload, crcs), sink)
            first = member.data_offset + member.nbytes
        if nbytes != member.nbytes:
            raise ValueError(f"{member.name}: {nbytes} bytes, {member.nbytes} were planned")
        gathered.append(descriptor(member, crc))
        crcs[member.name] = crc
        if member.data_offset - first >= _GATHERED:
            sink(b"".join(gathered))
            gathered.clear()
            first = member.end
    sink(b"".join(gathered))
    sink(directory(plan, crcs))
    return crcs


def _fill_member(pieces: Iterable[Buffer], sink: Sink) -> tuple[int, int]:
    """Write the bytes of one member; their number and CRC-32."""
    nbytes, crc = 0, 0
    for piece in pieces:
        data = memoryview(piece).cast("B")
        nbytes += data.nbytes
        crc = sink.checked(data, crc)
    return nbytes, crc


def _pieces(payload: Payload, crcs: Mapping[str, int]) -> Iterable[Buffer]:
    if callable(payload):
        return [payload(crcs)]
    return payload if isinstance(payload, Iterator) else [payload]
