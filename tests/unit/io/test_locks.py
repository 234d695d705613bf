"""A lock goes with its holder: not with a child, and not with what a child still has open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.io import locks

FLAGS = os.O_RDWR | os.O_CREAT


def test_a_second_opening_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    first = locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    with pytest.raises(BlockingIOError):
        locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    locks.close(first)
    locks.close(locks.open_locked(tmp_path / "x", FLAGS, 0o600))


def test_a_refused_opening_leaves_no_descriptor(tmp_path: Path) -> None:
    first = locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(BlockingIOError):
        locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    locks.close(first)


def test_a_forked_child_neither_holds_nor_gives_back_the_lock(tmp_path: Path) -> None:
    fd = locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    told, tell = os.pipe()
    hold, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(let_go)
        try:
            os.fstat(fd)
            os.write(tell, b"open")
        except OSError:
            os.write(tell, b"closed")
        os.read(hold, 1)
        os._exit(0)
    assert os.read(told, 10) == b"closed"
    with pytest.raises(BlockingIOError):  # the child has closed its copy; the parent still holds
        locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    locks.close(fd)
    locks.close(locks.open_locked(tmp_path / "x", FLAGS, 0o600))
    os.close(let_go)
    os.waitpid(pid, 0)


def test_closing_unlocks_what_a_duplicate_keeps_open(tmp_path: Path) -> None:
    fd = locks.open_locked(tmp_path / "x", FLAGS, 0o600)
    duplicate = os.dup(fd)
    locks.close(fd)
    locks.close(locks.open_locked(tmp_path / "x", FLAGS, 0o600))
    os.close(duplicate)
