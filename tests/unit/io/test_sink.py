"""Bytes in order into a file, whatever their sizes: gathered, or past the page cache."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.io import arena, descriptors, direct, filling, sink
from holdfast.io import settings as io_settings
from holdfast.io.arena import PAGE, Arena

SMALL = 4 * PAGE
FOLDERS = [Path(__file__).parent, Path("/dev/shm")]


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[tuple[int, Path]]:
    path = folder / f".sink-{os.getpid()}.bin"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield fd, path
    finally:
        os.close(fd)
        path.unlink()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four pages, so that files of a few pages have many."""
    for module in (arena, direct):
        monkeypatch.setattr(module, "SEGMENT", SMALL)
    monkeypatch.setattr(direct, "DIRECT_FROM", 1)
    monkeypatch.setattr(direct, "segments", arena.Segments())


def written(
    sizes: list[int], lasting: set[int], folder: Path, checked: Set[int] = frozenset()
) -> tuple[bytes, bytes]:
    """What a file holds after pieces of these sizes, and what it should hold."""
    pieces = [os.urandom(size) for size in sizes]
    memories = [memoryview(mmap.mmap(-1, max(1, size)))[:size] for size in sizes]
    for memory, piece in zip(memories, pieces, strict=True):
        memory[:] = piece
    whole = b"".join(pieces)
    with new_file(folder) as (fd, path):
        with contextlib.closing(direct.sink_of(fd, len(whole))) as out:
            for number, memory in enumerate(memories):
                if number in checked:
                    assert out.checked(memory, 5) == zlib.crc32(memory, 5)
                else:
                    (out.lasting if number in lasting else out)(memory)
                if number in checked or number not in lasting:
                    memory[:] = bytes(len(memory))  # it has been taken
            out.end()
            assert out.written == len(whole)
        return path.read_bytes(), whole


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
@pytest.mark.usefixtures("small_segments")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 9 * SMALL), st.sampled_from([0, PAGE, SMALL, 2 * SMALL])),
        min_size=1,
        max_size=12,
    ),
    lasting=st.sets(st.integers(0, 11)),
    checked=st.sets(st.integers(0, 11)),
)
def test_the_file_holds_the_pieces_in_order(
    folder: Path, sizes: list[int], lasting: set[int], checked: set[int]
) -> None:
    found, wanted = written(sizes, lasting, folder, checked)
    assert found == wanted


def test_large_files_go_past_the_page_cache_and_small_ones_through_it(tmp_path: Path) -> None:
    with new_file(tmp_path) as (fd, _):
        assert isinstance(direct.sink_of(fd, direct.DIRECT_FROM - 1), sink.GatheringSink)
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        with contextlib.closing(direct.sink_of(fd, direct.DIRECT_FROM)) as out:
            assert isinstance(out, direct.SegmentSink)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
            assert os.fstat(fd).st_size == direct.DIRECT_FROM
            out(bytes(direct.DIRECT_FROM))
            out.end()
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT


def test_without_direct_writes_the_bytes_are_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECT")
    with new_file(tmp_path) as (fd, _):
        assert isinstance(direct.sink_of(fd, direct.DIRECT_FROM), sink.GatheringSink)


@pytest.mark.usefixtures("small_segments")
def test_a_direct_write_that_is_refused_goes_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, refused = os.pwrite, []

    def refusing(fd: int, data: memoryview, at: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(at)
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", refusing)
    found, wanted = written([SMALL + 1, 3 * SMALL, 5], set(), tmp_path)
    assert found == wanted
    assert refused


@pytest.mark.usefixtures("small_segments")
def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:PAGE], at))
    found, wanted = written([3 * SMALL, SMALL - 1], {0}, tmp_path)
    assert found == wanted


@pytest.mark.usefixtures("small_segments")
def test_an_error_of_a_thread_is_raised_by_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        written([SMALL] * 100, set(), tmp_path)
    assert len(direct.segments._free) <= 5  # each was given back, and none made in vain


@pytest.fixture
def four_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "thread_count", lambda: 4)
    monkeypatch.setattr(filling, "CHUNK", PAGE)


@pytest.mark.usefixtures("small_segments", "four_at_once")
def test_large_pieces_are_copied_and_checked_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits in its first copy until another has begun one, too."""
    crc32, together, threads = filling.crc32, threading.Barrier(2), set()

    def meet(data: memoryview, value: int) -> int:
        if threading.get_ident() not in threads and len(threads) < 2:
            threads.add(threading.get_ident())
            together.wait(10)
        return crc32(data, value)

    monkeypatch.setattr(filling, "crc32", meet)
    found, wanted = written([7, 64 * SMALL, 9], set(), tmp_path, {1})
    assert found == wanted
    assert len(threads) == 2


@pytest.mark.usefixtures("small_segments", "four_at_once")
@pytest.mark.parametrize("where", ["in a helper", "in the caller"])
def test_a_copy_that_is_broken_off_ends_before_its_memory_is_used_again(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crc32, begun, over = filling.crc32, threading.Event(), []

    def fail(data: memoryview, value: int) -> int:
        is_caller = threading.current_thread() is threading.main_thread()
        if is_caller == (where == "in the caller"):
            assert is_caller or not begun.set()
            begun.wait(10)
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.05)
        over.append(value)
        return crc32(data, value)

    monkeypatch.setattr(filling, "crc32", fail)
    with pytest.raises(KeyboardInterrupt):
        written([64 * SMALL], set(), tmp_path, {0})
    count = len(over)
    time.sleep(0.2)
    assert len(over) == count
    assert len(direct.segments._free) == 4


@pytest.mark.usefixtures("small_segments", "four_at_once")
def test_an_error_of_the_disk_ends_the_copies_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        written([100 * SMALL], set(), tmp_path, {0})
    assert len(direct.segments._free) <= 5


@pytest.mark.usefixtures("small_segments")
def test_where_no_thread_can_be_started_one_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, before = threading.Thread.start, threading.active_count()

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("holdfast-fill"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    filling._threads.cache_clear()
    found, wanted = written([64 * SMALL], set(), tmp_path, {0})
    filling._threads.cache_clear()
    assert found == wanted
    assert threading.active_count() <= before


@pytest.mark.parametrize(("setting", "count"), [("1", 1), ("2", 2), ("3", 3), ("200", 4)])
def test_as_many_fill_as_write_but_never_many(
    setting: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_WRITER_THREADS", setting)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    filling._threads.cache_clear()
    assert filling.thread_count() == count
    filling._threads.cache_clear()


@pytest.mark.usefixtures("small_segments", "four_at_once")
@pytest.mark.parametrize("after", range(3))
def test_an_interruption_while_copies_are_handed_out_ends_all_of_them(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that no thread was given would be waited for for ever."""
    do, handed = filling.Threads.do, []

    def interrupted(self: filling.Threads, job: filling.Job) -> filling.Job:
        if len(handed) == after:
            raise KeyboardInterrupt
        handed.append(job)
        return do(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(filling.Threads, "do", interrupted)
        patch.setattr(direct.SegmentSink, "_submit", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            written([64 * SMALL], set(), tmp_path, {0})
    assert len(handed) == after
    assert len(direct.segments._free) == 4


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [
        ("HOLDFAST_WRITER_THREADS", "99999999", "256"),
        ("HOLDFAST_WRITE_BUFFER_MIB", "33554432", "65,536"),
    ],
)
def test_a_setting_that_is_too_large_is_a_letter(
    name: str, value: str, most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        io_settings.check()
    assert str(caught.value) == (
        f"the environment variable {name} is too large\n"
        f"  wanted {most} or less, found {value}\n"
        "  Set it to less, or leave it out."
    )


@pytest.mark.usefixtures("small_segments")
def test_after_close_no_thread_writes_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, begun, ended = os.pwrite, [], []

    def counting(fd: int, data: memoryview, at: int) -> int:
        begun.append(at)
        time.sleep(0.02)
        try:
            return pwrite(fd, data, at)
        finally:
            ended.append(at)

    monkeypatch.setattr(os, "pwrite", counting)
    with new_file(tmp_path) as (fd, _):
        with contextlib.closing(direct.sink_of(fd, 64 * SMALL)) as out:
            out.lasting(Arena(32 * SMALL).memory)
        count = len(begun)
        assert len(ended) == count < 32  # what was queued is not begun
        time.sleep(0.2)
        assert len(begun) == count


def test_a_file_size_limit_is_an_error_of_the_system(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with new_file(tmp_path) as (fd, _), pytest.raises(OSError, match="File too large"):
            direct.sink_of(fd, direct.DIRECT_FROM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("value", "kind"), [("0", "GatheringSink"), ("3", "SegmentSink"), (" ", "SegmentSink")]
)
def test_the_number_of_threads_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, kind: str
) -> None:
    monkeypatch.setenv("HOLDFAST_WRITER_THREADS", value)
    with new_file(tmp_path) as (fd, _), contextlib.closing(direct.sink_of(fd, 64 << 20)) as out:
        assert type(out).__name__ == kind


def test_a_setting_that_is_no_number_gets_a_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_WRITER_THREADS", "many")
    with new_file(tmp_path) as (fd, _), pytest.raises(UsageError) as caught:
        direct.sink_of(fd, direct.DIRECT_FROM)
    assert str(caught.value) == (
        "the environment variable HOLDFAST_WRITER_THREADS is not a whole number\n"
        "  found 'many'\n  Set it to a number, or leave it out."
    )


def test_where_a_file_system_cannot_preallocate_nothing_is_written_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(descriptors, "_fallocate", lambda: refuse)
    with new_file(tmp_path) as (fd, _), contextlib.closing(direct.sink_of(fd, 64 << 20)) as out:
        assert type(out).__name__ == "SegmentSink"
        assert os.fstat(fd).st_blocks == 0


@pytest.mark.parametrize(("value", "count"), [("16", 2), ("40", 5), ("", 4)])
def test_the_memory_between_can_be_set(
    monkeypatch: pytest.MonkeyPatch, value: str, count: int
) -> None:
    monkeypatch.setenv("HOLDFAST_WRITE_BUFFER_MIB", value)
    assert io_settings.segment_count() == count


def test_too_little_memory_between_gets_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_WRITE_BUFFER_MIB", "15")
    with pytest.raises(UsageError) as caught:
        io_settings.check()
    assert str(caught.value) == (
        "the environment variable HOLDFAST_WRITE_BUFFER_MIB is too small\n"
        "  wanted 16 or more, found 15\n"
        "  One piece of 8 MiB fills while another is written: set it to more, or leave it out."
    )


FORKED = """
import contextlib, os, sys
from holdfast.io import direct
def write(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    with contextlib.closing(direct.sink_of(fd, 20 << 20)) as out:
        out.checked(memoryview(b"a" * (20 << 20)))
        out.end()
    assert os.pread(fd, 30 << 20, 0) == b"a" * (20 << 20)
write(sys.argv[1] + "/one")
child = os.fork()
write(sys.argv[1] + ("/two" if child else "/three"))
if not child:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_child_writes_with_threads_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKED, tmp_path], check=True, timeout=60)


def test_two_threads_that_are_refused_at_once_both_go_on(tmp_path: Path) -> None:
    """Some file systems refuse only when it is tried."""
    script = """
import errno, fcntl, os, sys, time
import numpy as np
from holdfast.io.commit import commit

pwrite = os.pwrite
def refuse(fd, data, at):
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
        time.sleep(0.05 if at == 0 else 0.06)
        raise OSError(errno.EINVAL, "Invalid argument")
    return pwrite(fd, data, at)

os.pwrite = refuse
data = bytes(range(256)) * (40 << 12)
commit(sys.argv[1], len(data), lambda sink: sink(data))
assert open(sys.argv[1], "rb").read() == data
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=True, timeout=60)


def test_a_second_interruption_lets_no_thread_write_into_another_file(tmp_path: Path) -> None:
    """The first ends the save, the second its waiting; numbers of closed files are given anew."""
    script = """
import os, signal, sys, time
from holdfast.io.commit import commit

pwrite = os.pwrite
os.pwrite = lambda fd, data, at: (time.sleep(0.6), pwrite(fd, data, at))[1]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.3)
data = b"x" * (36 << 20)
try:
    commit(sys.argv[1], len(data), lambda sink: sink(data))
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
files = [open(f"{sys.argv[1]}-{number}", "w+") for number in range(3)]
for file in files:
    file.write("mine")
    file.flush()
time.sleep(2)
for file in files:
    assert os.path.getsize(file.name) == 4, file.name
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=True, timeout=60)


@pytest.mark.parametrize("call", ["write", "pwrite"])
def test_a_write_of_nothing_is_an_error_and_not_tried_for_ever(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, lambda *_: 0)
    data = bytes(8 << 20)[: 1000 if call == "write" else None]
    with new_file(tmp_path) as (fd, _), contextlib.closing(direct.sink_of(fd, 8 << 20)) as made:
        if call == "pwrite" and not isinstance(made, direct.SegmentSink):
            pytest.fail("this file system has no direct writes")
        if call == "write":
            made = sink.GatheringSink(lambda part: sink.write_all(fd, part))
        made(data)
        with pytest.raises(OSError, match="wrote nothing"):
            made.end()
