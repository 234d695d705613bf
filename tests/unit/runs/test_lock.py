from __future__ import annotations

import errno
import gc
import json
import os
import platform
import subprocess
import sys

import pytest

from holdfast.errors import FileError, LockedError
from holdfast.io import locks
from holdfast.runs.lock import RunLock

HOLD = """
import sys
from holdfast.runs.lock import RunLock
lock = RunLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""

TRY = """
import sys
from holdfast.errors import LockedError
from holdfast.runs.lock import RunLock
try:
    RunLock(sys.argv[1]).acquire()
except LockedError as error:
    print("locked", error.errno)
else:
    print("free")
"""


def try_elsewhere(folder):
    command = [sys.executable, "-c", TRY, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def other(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with process:
        yield process
        process.kill()


def test_one_process_holds_it_until_it_lets_go(tmp_path):
    lock = RunLock(tmp_path)
    assert not lock.is_held
    with lock:
        assert lock.is_held
        lock.acquire()
        assert try_elsewhere(tmp_path) == f"locked {errno.EWOULDBLOCK}"
    assert not lock.is_held
    lock.release()
    assert try_elsewhere(tmp_path) == "free"
    lock.acquire()
    assert try_elsewhere(tmp_path) == f"locked {errno.EWOULDBLOCK}"


def test_a_second_process_is_told_who_holds_it(tmp_path, other):
    with pytest.raises(LockedError) as caught:
        RunLock(tmp_path).acquire()
    assert str(caught.value) == (
        f"process {other.pid} on {platform.node()} writes to this run\n"
        f"  in {tmp_path}\n"
        "  Wait until it ends, or stop it; or give this training a folder of its own.\n"
        "  Reading needs no lock: holdfast list, Run(folder).load(...)."
    )
    assert isinstance(caught.value, OSError)


def test_after_a_kill_it_is_free_and_the_old_note_harmless(tmp_path, other):
    other.kill()
    other.wait()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == other.pid
    with RunLock(tmp_path):
        note = json.loads((tmp_path / ".lock").read_text())
    assert note == {"pid": os.getpid(), "host": platform.node()}


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"7",
        b"[]",
        b'{"pid": "x", "host": "y"}',
        b'{"pid": 1, "host": "a\\nb"}',
        b"\xff",
        b"[" * 4096,
        b" " * 9999,
    ],
)
def test_a_note_that_says_nothing_names_nobody(tmp_path, other, note):
    (tmp_path / ".lock").write_bytes(note)
    with pytest.raises(LockedError, match=r"^another process writes to this run\n"):
        RunLock(tmp_path).acquire()


def test_the_note_replaces_whatever_stood_there(tmp_path):
    (tmp_path / ".lock").write_bytes(b"x" * 9999)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_bytes())["pid"] == os.getpid()


def test_a_second_object_of_the_same_process_is_refused(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(LockedError) as caught:
            RunLock(tmp_path).acquire()
        assert str(caught.value) == (
            "this process already writes to this run, through another object\n"
            f"  in {tmp_path}\n"
            "  Close that one first: run.close(), or use `with`."
        )
        assert try_elsewhere(tmp_path).startswith("locked")


def test_an_object_that_is_forgotten_lets_go(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    del lock
    gc.collect()
    assert try_elsewhere(tmp_path) == "free"


def in_child(check):
    """Run ``check`` in a forked child; what it returns as text comes back."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, str(check()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123 (a descriptor)
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_a_forked_child_has_lost_it(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()

    def refused():
        with pytest.raises(LockedError) as caught:
            lock.acquire()
        return caught.value

    assert in_child(lambda: (lock.is_held, lock.is_lost)) == "(False, True)"
    letter = in_child(refused).splitlines()
    assert letter[0] == "a forked child cannot write to the run of its parent"
    assert letter[1] == f"  in {tmp_path}"
    assert letter[2].startswith(f"  wanted process {os.getpid()}, found process ")
    assert letter[3] == "  Save in the process that made the Run."
    assert (lock.is_held, lock.is_lost) == (True, False)


def test_a_child_that_ends_or_lets_go_does_not_unlock(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    in_child(lock.release)
    in_child(lambda: RunLock(tmp_path).release())
    assert try_elsewhere(tmp_path).startswith("locked")


def test_a_living_child_does_not_keep_it(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    reading, writing = os.pipe()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.write(tell, b"!")
        os.read(reading, 1)  # until the parent closes its end
        os._exit(0)
    os.close(reading)
    os.read(ready, 1)
    lock.release()
    free = try_elsewhere(tmp_path)
    for fd in (writing, ready, tell):
        os.close(fd)
    os.waitpid(pid, 0)
    assert free == "free"


def test_a_child_may_take_a_lock_that_nobody_holds(tmp_path):
    lock = RunLock(tmp_path)
    assert in_child(lambda: (lock.acquire(), lock.is_held)) == "(None, True)"


def test_a_program_started_from_here_does_not_inherit_it(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        close_fds=False,
    ) as program:
        lock.release()
        assert try_elsewhere(tmp_path) == "free"
        program.communicate()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, None])
def test_where_there_are_no_locks_it_warns_and_goes_on(tmp_path, monkeypatch, caplog, code):
    if code is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:

        def refuse(*_args):
            raise OSError(code, "no locks")

        monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with RunLock(tmp_path) as lock:
        assert lock.is_held
    assert caplog.messages == [
        f"{tmp_path}: this file system has no locks, so nothing keeps a second process from "
        "writing to this run. Start only one at a time."
    ]


def test_it_works_where_python_has_no_fcntl(tmp_path):
    script = f"""
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
sys.modules["fcntl"] = None
from holdfast.runs import keep, every, leftovers, listing, lock, pins, prune, provenance, where
with lock.RunLock({str(tmp_path)!r}):
    print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].endswith("Start only one at a time.")
    assert done.stdout.splitlines()[1:] == ["goes on"]


def test_a_missing_folder_is_a_letter_and_stays_missing(tmp_path):
    folder = tmp_path / "nothing"
    with pytest.raises(FileError) as caught:
        RunLock(folder).acquire()
    assert caught.value.errno == errno.ENOENT
    assert str(caught.value) == (
        "this run cannot be locked for writing: No such file or directory\n"
        f"  in {folder / '.lock'}\n"
        f"  Check that the folder is there and yours: ls -ld {folder}"
    )
    assert not folder.exists()


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path):
    treasure = tmp_path / "treasure"
    treasure.write_text("gold")
    (tmp_path / ".lock").symlink_to(treasure)
    with pytest.raises(FileError) as caught:
        RunLock(tmp_path).acquire()
    assert caught.value.errno == errno.ELOOP
    assert treasure.read_text() == "gold"


def test_a_full_disk_does_not_keep_a_run_from_being_locked(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with RunLock(tmp_path) as lock:
        assert lock.is_held


def test_a_read_only_file_system_is_told_from_a_folder_of_somebody_else(tmp_path, monkeypatch):
    def read_only(*_args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(locks, "open_locked", read_only)
    with pytest.raises(FileError) as caught:
        RunLock(tmp_path).acquire()
    assert str(caught.value) == (
        "this run cannot be locked for writing: Read-only file system\n"
        f"  in {tmp_path / '.lock'}\n"
        "  The file system is mounted read-only: save somewhere else, or remount it.\n"
        "  Reading needs no lock: holdfast.Run(folder).load(...)."
    )


def test_it_is_out_of_place_when_its_file_is_gone_or_another(tmp_path):
    with RunLock(tmp_path) as lock:
        assert lock.is_in_place
        lock.path.unlink()
        assert not lock.is_in_place
        lock.path.write_bytes(b"")
        assert not lock.is_in_place
        assert lock.is_held
    assert not RunLock(tmp_path).is_in_place
