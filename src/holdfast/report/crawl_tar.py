"""Look through tar archives: every block that can be a header is one, whatever others say."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.io.source import Source
from holdfast.pickles.table import STORAGES
from holdfast.pickles.values import Symbol, Walk
from holdfast.report import crawl_behind
from holdfast.report.findings import TOO_MANY
from holdfast.spec.dtypes import DType

if TYPE_CHECKING:
    from holdfast.report.crawl import Crawler
    from holdfast.report.site import Site

_BLOCK = 512
_WINDOW = 1 << 20
_SPARSE, _FOLDER = b"S", b"5"
#: Extended headers: of POSIX (pax), and names or targets of GNU tar that are too long.
_PAX, _LONG = (b"x", b"g", b"X"), (b"L", b"K")
_LINKS = (b"1", b"2")
_SPARSE_WORDS = "a sparse member is not looked through: unpack the tar first"
_SPARSE_IN_PAX, _SIZE_IN_PAX = b"GNU.sparse", b" size="
_MOST_HEADERS = 10_000
#: In torch's oldest files, pickles and raw numbers take turns in these members.
_MIXED = frozenset({"storages", "tensors"})
_PICKLE = "pickle"
#: One of the three as the last step of a path, in the data of an extended header.
_NAMED = re.compile(rb"(?:^|[=/])(storages|tensors|pickle)(?:[\n\0]|$)")
#: Bytes that a checksum may be written with: digits, spaces, signs, ``0o17`` and ``1_7``.
_LIKELY = np.zeros(256, bool)
_LIKELY[[*b"01234567 \t\r\n\v\f\x1c\x1d\x1e\x1f+-oO_"]] = True


def is_tar(head: bytes) -> bool:
    """Whether a first block is a tar header."""
    return len(head) == _BLOCK and _has_checksum(head)


def look(crawler: Crawler, site: Site) -> None:
    """Look at whatever stands behind each header."""
    said = _Said()
    for count, at in enumerate(_headers(site.source)):
        if count >= _MOST_HEADERS:
            crawler.found.problem(site, TOO_MANY)
            return
        _look_at_member(crawler, site, at, said)


@dataclass(slots=True)
class _Said:
    """What extended headers say of members behind them.

    It counts for all that follow: blocks that look like headers may lie in the headers themselves.
    """

    names: set[str] = field(default_factory=set)
    is_resized: bool = False

    def add(self, kind: bytes, data: bytes) -> None:
        """Take up an extended header."""
        self.names |= {found.decode() for found in _NAMED.findall(data)}
        self.is_resized |= kind in _PAX and _SIZE_IN_PAX in data


def _look_at_member(crawler: Crawler, site: Site, at: int, said: _Said) -> None:
    header, start = site.source.read_at(at, _BLOCK), at + _BLOCK
    kind, rest = header[156:157], site.source.size - start
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    # An extended header may give the member another size than its own.
    own = min(_size(header), rest)
    nbytes = rest if said.is_resized else own
    inner = site.inside(site.source.window(start, nbytes), name)
    if kind in (*_PAX, *_LONG):
        data = _beginning(inner.source)
        if kind in _PAX and _SPARSE_IN_PAX in data:
            crawler.found.problem(inner, _SPARSE_WORDS)
        if own > len(data):
            crawler.found.problem(
                inner, "an extended header of more than 1 MiB is not looked through"
            )
        said.add(kind, data)
        return
    if kind == _SPARSE:
        crawler.found.problem(inner, _SPARSE_WORDS)
    names = said.names | {name.rpartition("/")[2]}
    mixed = names & _MIXED
    if mixed and kind in _LINKS:
        crawler.found.problem(inner, "a link stands for what torch reads: unpack the tar first")
    for each in sorted(mixed):
        _look_mixed(crawler, replace(inner, name=each))
    if (not mixed or _PICKLE in names) and kind != _FOLDER:
        crawler.look(replace(inner, name=_PICKLE) if _PICKLE in names else inner)


def _headers(source: Source) -> Iterator[int]:
    """The positions of all blocks whose checksum is that of a header."""
    for base in range(0, source.size - _BLOCK + 1, _WINDOW):
        nbytes = min(_WINDOW, source.size - base) // _BLOCK * _BLOCK
        data = source.read_at(base, nbytes)
        blocks = np.frombuffer(data, np.uint8).reshape(-1, _BLOCK)
        for number in np.flatnonzero(_may_be_headers(blocks)):
            at = int(number) * _BLOCK
            if _has_checksum(data[at : at + _BLOCK]):
                yield base + at


def _may_be_headers(blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Blocks whose checksum may be one: digits up to a NUL, or a number in binary."""
    fields = blocks[:, 148:156]
    is_behind_nul = np.logical_or.accumulate(fields == 0, axis=1)
    is_text = (_LIKELY[fields] | is_behind_nul).all(axis=1) & (fields[:, 0] != 0)
    found: np.ndarray[Any, Any] = is_text | (fields[:, 0] == 0x80) | (fields[:, 0] == 0xFF)
    return found


def _has_checksum(block: bytes) -> bool:
    """Whether the checksum fits, written in any way that Python's tarfile reads."""
    wanted = _number(block[148:156])
    if wanted is None:
        return False
    outside = block[:148] + b" " * 8 + block[156:]
    signed = sum(outside) - 256 * sum(byte > 127 for byte in outside)
    return wanted in (sum(outside), signed)


def _number(field: bytes) -> int | None:
    """A number of a header as ``tarfile.nti`` reads it; None where it is none."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    try:
        return int(field.partition(b"\0")[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        return None


def _size(header: bytes) -> int:
    """The size that a header gives; where it gives none, more than any file has.

    Of a negative one ``tarfile`` takes what is left over of whole blocks, thousands of bytes.
    """
    found = _number(header[124:136])
    return 1 << 62 if found is None or found < 0 else found


def _beginning(source: Source) -> bytes:
    return source.read_at(0, min(source.size, _WINDOW))


def _look_mixed(crawler: Crawler, site: Site) -> None:
    """Follow pickles with raw numbers between them, as torch's reader would step over those."""
    at = end = 0
    while at < site.source.size:
        walked = crawler.walk(site, at, is_guess=at > 0)
        if walked is None:
            break
        end = at = walked.end
        if walked.is_finished and (raw := _raw_nbytes(site.source, walked, site.name)) is None:
            crawler.found.problem(site, f"how much lies behind byte {end:,} is not sure")
        elif walked.is_finished:
            at += raw or 0
    if at != site.source.size:
        if not crawl_behind.is_zeros(site.source, min(end, site.source.size)):
            unknown = f"what follows its pickles at byte {end:,} is not understood"
            crawler.found.problem(site, unknown)
        _look_for_starts(crawler, site, end)


def _raw_nbytes(source: Source, walked: Walk, name: str) -> int | None:
    """The bytes between a pickle and the next: a storage's, or a tensor's numbers.

    None where the pickle does not say it as torch wrote it: two texts or numbers, and a class.
    """
    top, at = walked.top, walked.end
    symbols = [part for part in top if isinstance(part, Symbol)] if isinstance(top, tuple) else []
    if not isinstance(top, tuple) and not walked.symbols:
        return 0  # a count, or the list of views
    if not isinstance(top, tuple) or len(top) != 3 or symbols != [top[2]] or at + 8 > source.size:
        return None
    if name.rpartition("/")[2] == "tensors":
        return 16 + 16 * min(1 << 40, int(struct.unpack("<I", source.read_at(at, 4))[0]))
    dtype: DType | None = STORAGES.get((symbols[0].module, symbols[0].name))
    numel = int.from_bytes(source.read_at(at, 8), "little")
    return None if dtype is None else 8 + numel * dtype.itemsize


def _look_for_starts(crawler: Crawler, site: Site, start: int) -> None:
    """What follows was not understood: look wherever a pickle of protocol 2 or later begins."""
    source = site.source
    for base in range(start, source.size, _WINDOW):
        data = source.read_at(base, min(_WINDOW + 1, source.size - base))
        at = data.find(b"\x80")
        while at >= 0:
            if data[at + 1 : at + 2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
                crawler.walk(site, base + at, is_guess=True)
            at = data.find(b"\x80", at + 1)
