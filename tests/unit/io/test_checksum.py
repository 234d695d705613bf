from __future__ import annotations

import io
import zlib

from hypothesis import given
from hypothesis import strategies as st

from holdfast.io.checksum import crc32, crc32_combine, crc32_of, read_checked
from holdfast.io.source import open_source


@given(st.binary(max_size=5000), st.integers(0, 2**32 - 1))
def test_it_is_the_crc_of_zip_files(data, start):
    assert crc32(data, start) == zlib.crc32(data, start)


@given(st.binary(max_size=3000), st.integers(1, 700), st.integers(0, 50))
def test_chunks_do_not_change_it(data, chunk, offset):
    told = []
    with open_source(io.BytesIO(bytes(offset) + data)) as source:
        found = crc32_of(source, offset, len(data), chunk=chunk, on_progress=told.append)
        view = bytearray(len(data))
        assert read_checked(source, offset, memoryview(view), chunk=chunk) == found
    assert view == data
    assert found == zlib.crc32(data)
    assert sum(told) == len(data)


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_the_crc_of_two_runs_is_that_of_both_together(first, second):
    found = crc32_combine(crc32(first), crc32(second), len(second))
    assert found == zlib.crc32(first + second)
