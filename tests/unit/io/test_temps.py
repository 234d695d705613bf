"""Temps of dead writers go with the next save of the same target; those of living ones stay."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import FileError
from holdfast.io import locks, temps
from holdfast.io.commit import commit
from holdfast.io.commit_folder import commit_folder

WRITER = """
import sys
from pathlib import Path
from holdfast.io.commit import commit
from holdfast.io.commit_folder import commit_folder

def fill(write):
    write(b"half")
    print("writing", flush=True)
    sys.stdin.read()
    write(b"half")

if sys.argv[2] == "file":
    commit(sys.argv[1], 8, fill)
else:
    commit_folder(sys.argv[1], [("one", 8, fill, None)])
"""


def begun(target: Path, kind: str) -> subprocess.Popen[bytes]:
    """A process that has written half."""
    command = [sys.executable, "-c", WRITER, str(target), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def save(target: Path, kind: str) -> None:
    def fill(write: object) -> None:
        write(b"whole")  # type: ignore[operator]

    if kind == "file":
        commit(target, 5, fill)
    else:
        commit_folder(target, [("one", 5, fill, None)])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_goes_with_the_next_save(kind, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "holdfast")
    with begun(tmp_path / "a", kind) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (left,) = tmp_path.iterdir()
    save(tmp_path / "a", kind)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert caplog.messages == [f"removed {left}, left by a writer that died"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_writer_writes_stays(kind, tmp_path) -> None:
    with begun(tmp_path / "a", kind) as process:
        (temp,) = tmp_path.iterdir()
        save(tmp_path / "a", kind)
        assert temp.exists()
        if kind == "folder":
            shutil.rmtree(tmp_path / "a")  # a folder is written anew only
        process.communicate()
    assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_temps_of_the_same_target_are_swept(tmp_path) -> None:
    others = [
        *(".b.0123abcd.tmp", ".a.b.0123abcd.tmp", ".a.0123abc.tmp", ".a.0123abcg.tmp", ".a.tmp"),
        *(".a.0123abcd.tmp.old", "a.0123abcd.tmp", ".ab.0123abcd.tmp", ".a.x.tmp"),
    ]
    for name in (*others, ".a.0123abcd.tmp"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".a.00000000.tmp")
    (tmp_path / ".a.00000001.tmp").symlink_to(tmp_path / ".a.tmp")
    save(tmp_path / "a", "file")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "a", ".a.00000000.tmp", ".a.00000001.tmp"}


def test_names_of_any_length_are_swept(tmp_path) -> None:
    target = tmp_path / ("名" * 80)
    temp, fd = temps.create(target)
    locks.close(fd)
    save(target, "file")
    assert not temp.exists()


def test_without_locks_nothing_is_swept(tmp_path, monkeypatch) -> None:
    (tmp_path / ".a.0123abcd.tmp").touch()
    (tmp_path / ".a.0123abce.tmp").mkdir()
    monkeypatch.setattr(locks, "fcntl", None)
    save(tmp_path / "a", "file")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_a_sweeper_took_is_made_again(tmp_path, monkeypatch) -> None:
    """Between making and locking it, it looks dead."""
    open_locked, taken = locks.open_locked, []

    def late(path: Path, flags: int, mode: int) -> int:
        if not taken:
            taken.append(path)
            path.rmdir()
        return open_locked(path, flags, mode)

    monkeypatch.setattr(locks, "open_locked", late)
    temp, fd = temps.create_folder(tmp_path / "a")
    assert temp.is_dir()
    assert temp != taken[0]
    assert fd is not None
    locks.close(fd)


def test_a_temp_that_is_made_while_it_is_swept_lives_or_is_made_again(
    tmp_path, monkeypatch
) -> None:
    """Whoever has just made it cannot lock it then, and makes another."""
    remove, made = temps.remove, []

    def slowly(path: Path) -> bool:
        descriptor = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):  # so its maker cannot take it for its own
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        made.append(path)
        return remove(path)

    monkeypatch.setattr(temps, "remove", slowly)
    (tmp_path / ".a.0123abcd.tmp").touch()
    temps.sweep(tmp_path / "a")
    assert made == [tmp_path / ".a.0123abcd.tmp"]
    assert list(tmp_path.iterdir()) == []


def test_two_that_save_the_same_file_at_once_disturb_each_other_in_nothing(tmp_path) -> None:
    """Each sweeps what it takes for dead, again and again."""
    code = """
import sys
from holdfast.io.commit import commit
for number in range(400):
    data = bytes([number % 256]) * 2000
    commit(sys.argv[1], 2000, lambda sink: sink(data))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [each.communicate(timeout=100)[1] for each in both] == [b"", b"", b""]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(set((tmp_path / "a").read_bytes())) == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_temp_that_can_never_be_looked_at_is_an_error_and_no_endless_loop(
    kind, tmp_path, monkeypatch
) -> None:
    lstat = Path.lstat

    def refuse(self: Path) -> os.stat_result:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return lstat(self)

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(FileError, match="Input/output error"):
        save(tmp_path / "a", kind)
    assert list(tmp_path.iterdir()) == []
