"""Look through tar archives: every block that can be a header is one, whatever others say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from holdfast.io.source import Source
from holdfast.pickles.table import STORAGES
from holdfast.pickles.values import Symbol, Walk
from holdfast.spec.dtypes import DType

if TYPE_CHECKING:
    from holdfast.report.crawl import Crawler
    from holdfast.report.site import Site

_BLOCK = 512
_WINDOW = 1 << 20
_SPARSE, _EXTENDED = b"S", b"xgX"
_MOST_HEADERS = 10_000
#: In torch's oldest files, pickles and raw numbers take turns in these members.
_MIXED = ("storages", "tensors")


def is_tar(head: bytes) -> bool:
    """Whether a first block is a tar header."""
    return len(head) == _BLOCK and head[0] != 0 and _has_checksum(head)


def look(crawler: Crawler, site: Site) -> None:
    """Look at whatever stands behind each header."""
    source = site.source
    kind = b""
    for count, at in enumerate(_headers(source)):
        if count >= _MOST_HEADERS:
            crawler.problem(site, "it holds more members than can be looked through one by one")
            return
        header = source.read_at(at, _BLOCK)
        before, kind = kind, header[156:157]
        start = at + _BLOCK
        name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
        rest = source.size - start
        # An extended header may give the member another size than its own.
        nbytes = rest if before in (b"x", b"g", b"X") else min(_size(header), rest)
        inner = site.inside(source.window(start, nbytes), name)
        if kind == _SPARSE:
            crawler.problem(inner, "a sparse member is not looked through: unpack the tar first")
        if name.rpartition("/")[2] in _MIXED:
            _look_mixed(crawler, inner)
        elif kind not in (b"x", b"g", b"X", b"5"):
            crawler.look(inner)


def _headers(source: Source) -> Iterator[int]:
    """The positions of all blocks whose checksum is that of a header."""
    for base in range(0, source.size - _BLOCK + 1, _WINDOW):
        nbytes = min(_WINDOW, source.size - base) // _BLOCK * _BLOCK
        data = source.read_at(base, nbytes)
        blocks = np.frombuffer(data, np.uint8).reshape(-1, _BLOCK)
        digits = blocks[:, 148:154]
        # Octal digits, spaces and NULs: random bytes hardly ever are.
        likely = (((digits >= 48) & (digits < 56)) | (digits == 32) | (digits == 0)).all(axis=1)
        for number in np.flatnonzero(likely & (blocks[:, 0] != 0)):
            at = int(number) * _BLOCK
            if _has_checksum(data[at : at + _BLOCK]):
                yield base + at


def _has_checksum(block: bytes) -> bool:
    written = block[148:156].strip(b" \0")
    try:
        wanted = int(written, 8)
    except ValueError:
        return False
    outside = block[:148] + b" " * 8 + block[156:]
    signed = sum(outside) - 256 * sum(byte > 127 for byte in outside)
    return wanted in (sum(outside), signed)


def _size(header: bytes) -> int:
    field = header[124:136]
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return max(0, int(field.strip(b" \0") or b"0", 8))
    except ValueError:
        return 1 << 62


def _look_mixed(crawler: Crawler, site: Site) -> None:
    """Follow pickles with raw numbers between them, as torch's reader would step over those."""
    at = end = 0
    while at < site.source.size:
        walked = crawler.walk(site, at, is_guess=at > 0)
        if walked is None:
            break
        end = walked.end
        at = end + (_raw_nbytes(site.source, walked, site.name) if walked.is_finished else 0)
    if at != site.source.size:
        _look_for_starts(crawler, site, end)


def _raw_nbytes(source: Source, walked: Walk, name: str) -> int:
    """The bytes between a pickle and the next: a storage's, or a tensor's numbers."""
    top, at = walked.top, walked.end
    symbols = [part for part in top if isinstance(part, Symbol)] if isinstance(top, tuple) else []
    if not symbols or at + 8 > source.size:
        return 0
    if name.rpartition("/")[2] == "tensors":
        return 16 + 16 * min(1 << 40, int(struct.unpack("<I", source.read_at(at, 4))[0]))
    dtype: DType | None = STORAGES.get((symbols[-1].module, symbols[-1].name))
    numel = int.from_bytes(source.read_at(at, 8), "little")
    return 8 + numel * (dtype.itemsize if dtype is not None else 1)


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
