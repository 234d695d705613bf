"""Many runs of bytes at once: each lands in its memory, with its CRC."""

from __future__ import annotations

import ctypes
import mmap
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import TruncatedError
from holdfast.io import reading
from holdfast.io.files import open_file
from holdfast.io.pages import advise_large_pages
from holdfast.io.reading import Place, read_all

DATA = bytes(range(256)) * 400


@given(
    runs=st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 12_000)), max_size=8),
    piece=st.sampled_from([1000, 4096, 1 << 20]),
)
def test_each_run_lands_in_its_memory(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]], piece: int
) -> None:
    path = tmp_path_factory.mktemp("reading") / "data"
    path.write_bytes(DATA)
    before, reading.RANGE = reading.RANGE, piece
    counted: list[int] = []
    try:
        with open_file(str(path)) as source:
            places = [Place(source, at, memoryview(bytearray(size))) for at, size in runs]
            crcs = read_all(places, on_progress=counted.append)
    finally:
        reading.RANGE = before
    for (at, size), place, crc in zip(runs, places, crcs, strict=True):
        assert place.memory == DATA[at : at + size]
        assert crc == zlib.crc32(DATA[at : at + size])
    assert sum(counted) == sum(size for _, size in runs)


def test_large_ones_are_read_by_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(40 << 20))
    threads = set()
    with open_file(str(path)) as source:
        place = Place(source, 0, memoryview(bytearray(40 << 20)))
        read_all([place], on_progress=lambda _: threads.add(threading.get_ident()))
    assert threading.get_ident() not in threads


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with open_file(str(path)) as source, pytest.raises(TruncatedError):
        read_all([Place(source, len(DATA) - 5, memoryview(bytearray(6)))])


def pages_of(address: int) -> str:
    """The flags of the mapping that an address lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.partition(" ")[0]
        if "-" in first and ":" not in first:
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= address < high
        elif inside and line.startswith("VmFlags:"):
            return line
    return ""


def test_large_memory_is_advised_to_have_large_pages() -> None:
    """The memory is fresh from the system: what malloc gives may lie where large memory was before,
    and keeps the advice that memory got.
    """
    large, small = mmap.mmap(-1, 64 << 20), mmap.mmap(-1, 4 << 20)
    for memory in (large, small):
        advise_large_pages(address_of(memory), len(memory))
    assert " hg" in pages_of(address_of(large) + (32 << 20))
    assert " hg" not in pages_of(address_of(small) + (2 << 20))


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
