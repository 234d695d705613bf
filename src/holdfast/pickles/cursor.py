"""Taking the next bytes of a pickle."""

from __future__ import annotations

from holdfast.errors import TruncatedError
from holdfast.pickles.machine import Machine


def take(m: Machine, nbytes: int) -> bytes:
    """The next bytes."""
    start = m.pos
    stop = start + nbytes
    if stop > m.end:
        raise ended(m, "it ends in the middle of a value")
    m.pos = stop
    return m.data[start:stop]


def line(m: Machine) -> bytes:
    """The next bytes up to a newline."""
    stop = m.data.find(b"\n", m.pos)
    if stop < 0:
        raise ended(m, "it ends in the middle of a line")
    found = m.data[m.pos : stop]
    m.pos = stop + 1
    return found


def sized(m: Machine, width: int) -> bytes:
    """Bytes behind a length of ``width`` bytes."""
    return take(m, int.from_bytes(take(m, width), "little"))


def ended(m: Machine, what: str) -> TruncatedError:
    """The error for bytes that end before the pickle does."""
    error = m.broken(what)
    return TruncatedError(
        error.what, file=error.file, member=error.member, found=error.found, cure=error.cure
    )
