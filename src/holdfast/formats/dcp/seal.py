"""The record of a folder, ``holdfast.json``: with the checksums of all other files, and its own.

A slice's own headers have the CRC of its elements; these here are of whole slices, so that no byte
of a folder is unknown, and a file that belongs to another save is found.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from holdfast.errors import DamagedError, FormatError, RefusedError
from holdfast.formats.dcp.layout import NAME, Place
from holdfast.io.checksum import crc32
from holdfast.io.source import Folder
from holdfast.spec.index import Extent
from holdfast.spec.record import MEMBER

_END = b"\n}"
_SEAL = re.compile(rb',\n "crc32": "([0-9a-f]{8})"\n}\Z')
_DIGITS = 8


class Seal(NamedTuple):
    """What a record says of the bytes: its own CRC, and those of slices by file, in their order."""

    crc: int
    nbytes: int
    checksums: Mapping[str, str]


def joined(crcs: Iterable[int]) -> str:
    """Checksums as they stand in the record: eight hexadecimal digits each."""
    return "".join(f"{crc:08x}" for crc in crcs)


def seal(record: bytes, checksums: Mapping[str, str]) -> bytes:
    """A record with ``checksums`` by file, closed by the CRC of everything before it."""
    assert record.endswith(_END)
    more = json.dumps(dict(checksums), ensure_ascii=False, indent=1).encode()
    body = record.removesuffix(_END) + b',\n "checksums": ' + more
    return body + f',\n "crc32": "{crc32(body):08x}"'.encode() + _END


def seal_of(data: bytes, *, file: str) -> Seal | None:
    """The checksums in a record that is whole JSON; None where it has none.

    Raises:
        DamagedError: its own checksum is not that of its bytes.
    """
    found = _SEAL.search(data)
    checksums = json.loads(data).get("checksums")
    if found is None and checksums is None:
        return None
    crc = None if found is None else crc32(data[: found.start()])
    if found is None or not isinstance(checksums, dict) or int(found[1], 16) != crc:
        raise DamagedError(
            "the record of this checkpoint is damaged",
            file=file,
            member=MEMBER,
            wanted="a record that ends with its own checksum"
            if found is None
            else f"CRC {found[1].decode()}",
            found=None if crc is None else f"{crc:08x}",
            cure="Use an earlier checkpoint: holdfast list shows them.",
        )
    return Seal(crc or 0, found.start(), checksums)


def sealed_extents(folder: Folder, places: Sequence[Place], found: Seal) -> tuple[Extent, ...]:
    """All bytes that a record has checksums of: itself, ``.metadata``, every slice.

    Raises:
        FormatError: it is the record of other slices.
    """
    record = folder.open(MEMBER)
    extents = [Extent(record.name, 0, found.nbytes, found.crc, MEMBER)]
    described = folder.open(NAME)
    (crc,) = _crcs(folder, found, NAME, 1)
    extents.append(Extent(described.name, 0, described.size, crc, NAME))
    ordered = sorted(places, key=lambda place: (place.file, place.offset))
    files = {file: list(group) for file, group in groupby(ordered, key=lambda each: each.file)}
    if {*files, NAME} != {*found.checksums}:
        other = sorted({*files, NAME} ^ {*found.checksums})
        raise _of_others(folder, f"{other[0][:200]} is in one of them only")
    for file, group in files.items():
        name = folder.open(file).name
        crcs = _crcs(folder, found, file, len(group))
        extents += [
            Extent(name, place.offset, place.nbytes, crc, f"{file}@{place.offset}")
            for place, crc in zip(group, crcs, strict=True)
        ]
    return tuple(extents)


def _crcs(folder: Folder, found: Seal, file: str, count: int) -> list[int]:
    text = found.checksums.get(file)
    if not isinstance(text, str) or len(text) != _DIGITS * count:
        raise _of_others(folder, f"{file[:200]} has {count:,} pieces, and not as many checksums")
    try:
        return list(struct.unpack(f">{count}I", bytes.fromhex(text)))
    except (ValueError, struct.error) as error:
        raise RefusedError(
            "refused: checksums are hexadecimal digits", file=folder.name, member=MEMBER
        ) from error


def _of_others(folder: Folder, found: str) -> FormatError:
    return FormatError(
        "the record of this checkpoint and the list of its pieces are of two saves",
        file=folder.name,
        member=MEMBER,
        found=found,
        cure="Copy the folder again, whole; or go back to an earlier checkpoint.",
    )
