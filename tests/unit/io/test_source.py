from __future__ import annotations

import errno
import io
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.errors import (
    FileError,
    NoCheckpointError,
    NotACheckpointError,
    TruncatedError,
    UsageError,
)
from holdfast.io.source import Memory, open_source, owned

DATA = bytes(range(256)) * 40


@pytest.fixture(params=["path", "Path", "BytesIO", "open file", "no readinto", "no preadv"])
def source(request, tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    if request.param == "no preadv":  # as on Windows
        monkeypatch.delattr(os, "preadv")
    opened = {
        "path": lambda: str(path),
        "Path": lambda: path,
        "BytesIO": lambda: io.BytesIO(DATA),
        "open file": lambda: path.open("rb"),
        "no readinto": lambda: tempfile.SpooledTemporaryFile(max_size=1),  # noqa: SIM115
        "no preadv": lambda: path,
    }[request.param]()
    if request.param == "no readinto":
        opened.write(DATA)
        opened.seek(0)
    with open_source(opened) as source:
        yield source
    if hasattr(opened, "close"):
        opened.close()


def test_bytes_are_read_at_any_offset(source):
    assert source.size == len(DATA)
    assert source.read_at(0, 4) == DATA[:4]
    assert source.read_at(5000, 5240) == DATA[5000:]
    assert source.read_at(len(DATA), 0) == b""
    buffer = bytearray(100)
    source.read_into(77, memoryview(buffer))
    assert buffer == DATA[77:177]


def test_what_is_not_there_is_a_truncated_file(source):
    with pytest.raises(TruncatedError) as caught:
        source.read_at(len(DATA) - 3, 4)
    assert str(caught.value) == (
        "this file ends too early\n"
        f"  in {source.name}\n"
        "  wanted at least 10,241 bytes, found 10,240 bytes\n"
        "  It was not written or copied to its end: get it again, or use an earlier one."
    )
    with pytest.raises(TruncatedError):
        source.read_at(0, 1 << 60)  # and no such memory is asked for
    with pytest.raises(TruncatedError):
        source.read_at(-1, 1)


def test_threads_do_not_disturb_each_other(source):
    def read(start: int) -> bool:
        return source.read_at(start, 999) == DATA[start : start + 999]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(0, 9000, 7)))


def test_a_file_that_shrinks_while_open_is_truncated(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    with open_source(path) as source:
        os.truncate(path, 10)
        with pytest.raises(TruncatedError, match="ends too early"):
            source.read_at(5, 10)


def test_a_file_object_is_read_from_its_position_and_left_there():
    file = io.BytesIO(b"before" + DATA)
    file.seek(6)
    with open_source(file) as source:
        assert source.size == len(DATA)
        assert source.read_at(1, 3) == DATA[1:4]
    assert file.tell() == 6
    assert not file.closed


def test_a_file_object_closed_meanwhile_is_left_alone():
    file = io.BytesIO(DATA)
    source = open_source(file)
    file.close()
    source.close()


def test_paths_that_cannot_be_read_get_letters(tmp_path):
    with pytest.raises(NoCheckpointError) as missing:
        open_source(tmp_path / "nothing.pt")
    assert str(missing.value) == f"there is no such file\n  in {tmp_path}/nothing.pt"
    assert isinstance(missing.value, FileNotFoundError)
    with pytest.raises(NoCheckpointError):
        open_source("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotACheckpointError, match="no regular file"):
        open_source(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="Not a directory") as beneath:
        open_source(tmp_path / "file" / "x.pt")
    assert beneath.value.errno == 20


def test_an_error_of_the_system_while_reading_is_a_letter(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    source = open_source(path)
    source.close()
    with pytest.raises(FileError, match="this cannot be read: Bad file descriptor") as caught:
        source.read_at(0, 1)
    assert caught.value.errno == 9
    source.close()


@pytest.mark.parametrize("has_preadv", [True, False])
def test_a_closed_file_is_still_as_long_as_it_was(tmp_path, monkeypatch, has_preadv):
    """The letter asks for the size of now, which a closed file cannot say."""
    if not has_preadv:
        monkeypatch.delattr(os, "preadv")
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    source = open_source(path)
    source.close()
    with pytest.raises(TruncatedError) as caught:
        source.read_at(len(DATA), 1)
    assert caught.value.found == "10,240 bytes"


def test_what_is_neither_path_nor_binary_file_is_a_wrong_call():
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(UsageError) as caught:
        open_source(pipe)
    assert caught.value.cure == "Read it whole and pass io.BytesIO(data)."
    for wrong in (io.StringIO("x"), 3, None, [1]):
        with pytest.raises(UsageError, match="a path or a binary file object"):
            open_source(wrong)


def test_a_window_is_a_run_of_bytes_with_its_place(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    with open_source(path) as source:
        window = source.window(10, 20)
        assert (window.name, window.size, window.origin) == (str(path), 20, 10)
        assert window.read_at(5, 3) == bytes([15, 16, 17])
        inner = window.window(5, 3)
        assert (inner.origin, inner.read_at(0, 3)) == (15, bytes([15, 16, 17]))
        with pytest.raises(TruncatedError):
            window.read_at(18, 3)
        with pytest.raises(TruncatedError):
            source.window(90, 11)


def test_memory_reads_like_a_file():
    with Memory(bytes(range(10)), "inner") as source:
        assert source.read_at(8, 2) == b"\x08\x09"
        with pytest.raises(TruncatedError):
            source.read_at(8, 3)


def test_sources_below_are_found_by_name_and_closed_with_their_owner(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"outer")
    (tmp_path / "y").write_bytes(b"inner")
    source = open_source(path)
    below = source.adopt(open_source(tmp_path / "y"))
    assert source.of(str(path)) is source
    assert source.of(str(tmp_path / "y")) is below
    source.close()
    with pytest.raises(FileError):
        below.read_at(0, 1)


def test_a_source_below_one_below_is_found_and_closed():
    with open_source(io.BytesIO(b"outer")) as outer:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (its source closes it)
        file.write(b"inner")
        inner = outer.adopt(owned(file, "inner"))
        innermost = inner.adopt(Memory(b"innermost", "innermost"))
        assert outer.of("inner") is inner
        assert outer.of("innermost") is innermost
        assert inner.read_at(1, 3) == b"nne"
        with pytest.raises(KeyError):
            outer.of("another")
    assert file.closed


def test_an_error_of_closing_what_was_read_is_none(tmp_path, monkeypatch):
    """It tells of writes, of which there were none; and the descriptor is gone all the same."""
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    closed = []

    def refuse(fd, real=os.close):
        real(fd)
        closed.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        source = open_source(path)
        patch.setattr(os, "close", refuse)
        assert source.read_at(0, 4) == DATA[:4]
        source.close()
        source.close()
    assert len(closed) == 1
