"""Packed bytes in a scan: what comes out of them, and of those that break."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from scanning import EVIL, members, scan

from holdfast.io.source import Memory
from holdfast.report.unpack import RAW, WRAPPED, Unpacked, is_packed, unpack


class Counted(Memory):
    """Bytes in memory that count how many of them are read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "f")
        self.nbytes_read = 0

    def _read_some(self, offset: int, view: memoryview) -> int:
        count = super()._read_some(offset, view)
        self.nbytes_read += count
        return count


@pytest.mark.parametrize("window_bits", [RAW, WRAPPED])
def test_what_is_unpacked_ends_where_the_stream_does(window_bits):
    packer = zlib.compressobj(wbits=window_bits - 32 if window_bits == WRAPPED else RAW)
    packed = packer.compress(EVIL) + packer.flush()
    for behind in (b"", b"abc"):
        found = unpack(Memory(packed + behind, "f"), 1 << 20, window_bits)
        assert found == Unpacked(EVIL, False, False, len(packed))
    assert unpack(Memory(packed, "f"), 5, window_bits) == Unpacked(EVIL[:5], True, False)


def test_of_a_stream_that_breaks_the_beginning_is_looked_through():
    noise = random.Random(0).randbytes(300_000)
    packed = gzip.compress(EVIL + noise)
    broken = packed[:-8] + b"\0" * 8  # the checksum and the size of what was packed
    found = unpack(Memory(broken, "f"), 1 << 20, WRAPPED)
    assert (found.has_more, found.is_broken, found.end) == (False, True, None)
    assert len(found.data) > 200_000
    assert (EVIL + noise).startswith(found.data)
    report = scan(broken)
    assert members(report) == ["unpacked"]
    assert "it unpacks only in part" in [problem.what for problem in report.problems]


def test_many_small_members_of_gzip_are_not_read_again_and_again():
    source = Counted(gzip.compress(b"N.") * 5000)
    assert unpack(source, 1 << 20, WRAPPED).data == b"N." * 5000
    assert source.nbytes_read < 100 * source.size


@pytest.mark.parametrize("text", [b"x = 1\n", b"x? y", b"x}{"])
def test_text_that_begins_somewhat_like_zlib_is_text(text):
    """A stream that asks for a dictionary from elsewhere is none that anybody unpacks."""
    assert not is_packed(text)
    assert scan(text).verdict == "clean"


@pytest.mark.parametrize("level", range(10))
def test_every_stream_of_zlib_is_packed(level):
    assert is_packed(zlib.compress(b"abc", level))
