"""Pickles in a row: each is found where the one before it ends."""

from __future__ import annotations

import io
import pickle

import pytest

from holdfast.errors import FormatError, RefusedError, TruncatedError
from holdfast.io.source import open_source
from holdfast.pickles.sequence import read_next


def no_storages(m, pid):
    raise m.refused("there are none")


def read_all(data: bytes, **options) -> list:
    found, position = [], 0
    with open_source(io.BytesIO(data)) as source:
        while position < source.size:
            pickled, position = read_next(source, position, persistent=no_storages, **options)
            found.append(pickled.tree)
    return found


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_each_pickle_ends_where_the_next_begins(protocol, window):
    values = [1, "text" * 100, {"a": [1.5, None, b"bytes", 2**70]}, (), -1, "é" * 40]
    data = b"".join(pickle.dumps(value, protocol) for value in values)
    assert read_all(data, window=window) == values


class Counting(io.BytesIO):
    """A file that remembers the largest read."""

    largest = 0

    def readinto(self, view):
        self.largest = max(self.largest, len(view))
        return super().readinto(view)


def test_a_pickle_that_is_broken_is_not_read_in_larger_and_larger_windows():
    file = Counting(b"\x80\x02h\x05" + bytes(10_000_000))
    with open_source(file) as source, pytest.raises(FormatError, match="it never put"):
        read_next(source, 0, persistent=no_storages, window=4096)
    assert file.largest == 4096


def test_what_follows_a_pickle_is_not_read_with_it():
    data = pickle.dumps("x" * 5000)
    file = Counting(data + bytes(10_000_000))
    with open_source(file) as source:
        assert read_next(source, 0, persistent=no_storages, window=16)[1] == len(data)
    assert file.largest < 4 * len(data)


def test_a_pickle_larger_than_any_is_refused_and_one_cut_off_is_truncated():
    data = pickle.dumps("x" * 5000)
    with open_source(io.BytesIO(data)) as source, pytest.raises(RefusedError) as caught:
        read_next(source, 0, persistent=no_storages, window=16, most=1000)
    assert str(caught.value) == (
        "refused: pickles are small\n"
        "  in <BytesIO>\n"
        "  wanted at most 1,000 bytes, found more\n"
        "  The file is broken, or made to do harm: do not load it with anything else."
    )
    for end in range(1, len(data), 97):
        with open_source(io.BytesIO(data[:end])) as source, pytest.raises(TruncatedError):
            read_next(source, 0, persistent=no_storages, window=16)


def test_behind_the_end_of_the_file_there_is_no_pickle():
    with open_source(io.BytesIO(b"N.")) as source, pytest.raises(TruncatedError) as caught:
        read_next(source, 2, persistent=no_storages, member="the keys")
    assert str(caught.value) == (
        "the pickle in this file cannot be read: it ends before its end\n"
        "  in <BytesIO>, member 'the keys'\n"
        "  found at byte 0 of 0\n"
        "  The file is broken: get it again, or use an earlier one."
    )
