"""The members of a tar archive: regular files by name, with exact places; hostile headers refused.

Formats: POSIX.1-2001 (ustar and pax), and GNU's numbers and long names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.errors import RefusedError, TruncatedError
from holdfast.io.source import Source

_BLOCK = 512
_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTRA = (_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK)
#: Kinds without bytes: links, devices, folders, pipes.
_WITHOUT_BYTES = b"123456"
#: pax records and long names say something about the next member, and are short.
_LONGEST_EXTRA = 1 << 20
_PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")


@dataclass(frozen=True, slots=True)
class Member:
    """One member: where its bytes lie, and whether it is a regular file, without holes."""

    name: str
    offset: int
    nbytes: int
    is_regular: bool


def members_of(source: Source) -> Iterator[Member]:
    """The members in the order of the file, from their headers alone.

    Raises:
        TruncatedError: the file ends in the middle of a member.
        RefusedError: a header is not what it should be.
    """
    position, extra = 0, _Extra()
    while position + _BLOCK <= source.size:
        header = source.read_at(position, _BLOCK)
        if not header.strip(b"\0"):
            return
        _check(source, header, position)
        kind, start = header[156:157], position + _BLOCK
        nbytes = _number(source, header[124:136])
        if kind not in _EXTRA and extra.nbytes is not None:
            nbytes = extra.nbytes
        if kind in _WITHOUT_BYTES:
            nbytes = 0
        position = start + -(-nbytes // _BLOCK) * _BLOCK
        if start + nbytes > source.size:
            raise _ends_early(source, start + nbytes)
        if kind in _EXTRA:
            extra.take(source, kind, start, nbytes)
            continue
        name = extra.name if extra.name is not None else _name(header)
        yield Member(name, start, nbytes, kind in (b"0", b"\0") and not extra.is_sparse)
        extra = _Extra()


class _Extra:
    """What headers before a member say about it: pax records, GNU's long names."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.nbytes: int | None = None
        self.is_sparse = False
        self._count = 0

    def take(self, source: Source, kind: bytes, start: int, nbytes: int) -> None:
        self._count += 1
        if nbytes > _LONGEST_EXTRA or self._count > 4:
            raise _refused(source, "headers that extend another are few and short")
        data = source.read_at(start, nbytes)
        if kind == _LONG_NAME:
            self.name = _text(data)
        elif kind == _PAX:
            for key, value in _records(source, data):
                self._record(source, key, value)
        elif kind == _PAX_FOR_ALL and re.search(rb" (size|path|GNU\.sparse)", data):
            raise _refused(source, "no header gives all members one name or size")

    def _record(self, source: Source, key: str, value: bytes) -> None:
        if key == "path":
            self.name = _text(value)
        elif key == "size":
            if not value.isdigit() or len(value) > 19:
                raise _refused(source, "a member's size is a number from 0 on")
            self.nbytes = int(value)
        elif key.startswith("GNU.sparse"):
            self.is_sparse = True


def _records(source: Source, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The ``length key=value`` lines of a pax header."""
    position = 0
    while position < len(data):
        found = _PAX_LENGTH.match(data, position)
        end = position + int(found[1]) if found else 0
        record = data[found.end() : end] if found else b""
        if not found or end > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise _refused(source, "a pax header is a list of lengths, names and values")
        key, _, value = record[:-1].partition(b"=")
        yield _text(key), value
        position = end


def _check(source: Source, header: bytes, position: int) -> None:
    """A header's checksum is the sum of its bytes, its own eight counted as spaces."""
    wanted = sum(header) - sum(header[148:156]) + 8 * 0x20
    if _number(source, header[148:156]) != wanted:
        raise _refused(source, "the checksum of every header is right", f"at byte {position:,}")


def _number(source: Source, field: bytes) -> int:
    """An octal number, or GNU's: a first byte of 0x80, then big-endian bytes."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise _refused(source, "a member's numbers are octal and from 0 on", ascii(digits))
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _refused(source: Source, rule: str, found: str | None = None) -> RefusedError:
    return RefusedError(
        f"refused: {rule}",
        file=source.name,
        found=found,
        cure="The archive is broken, or made so that two programs see two different files in it.",
    )


def _ends_early(source: Source, end: int) -> TruncatedError:
    return TruncatedError(
        "this file ends too early",
        file=source.name,
        wanted=f"at least {end:,} bytes",
        found=f"{source.size:,} bytes",
        cure="It was not written or copied to its end: get it again, or use an earlier one.",
    )
