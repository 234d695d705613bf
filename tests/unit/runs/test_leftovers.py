from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.io import locks
from holdfast.io.commit import commit
from holdfast.io.folders import trash
from holdfast.runs.leftovers import dead_files, sweep

DEAD = [
    ".step-00000100.pt.0123abcd.tmp",
    ".模型.pt.0123abcd.tmp",
    ".a\nb.pt.0123abcd.tmp",
    ".trash-0123abcd-step-00000001.pt",
]
OTHERS = [
    "step-00000100.pt",
    "step-00000100.pin",
    ".lock",
    ".tmp",
    ".0123abcd.tmp",
    "step-00000100.pt.0123abcd.tmp",
    ".step.pt.0123ABCD.tmp",
    ".step.pt.0123abc.tmp",
    ".step.pt.0123abcde.tmp",
    ".step.pt.0123abcd.tmp.bak",
    ".trash-0123abcd-",
    ".trash-0123abcg-a.pt",
    ".trash-old",
    ".trash",
    "trash-0123abcd-a.pt",
    ".git",
]


@pytest.fixture
def folder(tmp_path):
    for name in DEAD + OTHERS:
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(paths):
    return sorted(path.name for path in paths)


def test_only_names_that_holdfast_gives_are_leftovers(folder):
    assert names(dead_files(folder)) == sorted(DEAD)


def test_sweeping_removes_them_and_says_so(folder, caplog):
    caplog.set_level(logging.INFO, "holdfast")
    assert names(sweep(folder)) == sorted(DEAD)
    assert names(folder.iterdir()) == sorted(OTHERS)
    assert f"removed {folder / DEAD[0]}, left by a writer that died" in caplog.messages
    assert sweep(folder) == []


def test_no_folder_has_no_leftovers(tmp_path):
    (tmp_path / "file").touch()
    assert dead_files(tmp_path / "nothing") == []
    assert dead_files(tmp_path / "file") == []


def test_a_folder_whose_writer_died_goes_with_what_is_in_it(tmp_path):
    temp = tmp_path / ".step-00000001.00000000.tmp"
    temp.mkdir()
    (temp / "__0_0.distcp").touch()
    (tmp_path / ".step-00000002.00000000.tmp").mkdir()
    fd = locks.open_locked(tmp_path / ".step-00000002.00000000.tmp", os.O_RDONLY, 0)
    assert sweep(tmp_path) == [temp]
    locks.close(fd)
    assert [path.name for path in tmp_path.iterdir()] == [".step-00000002.00000000.tmp"]


def test_what_bears_the_name_of_a_temp_and_is_neither_file_nor_folder_stays(tmp_path):
    os.mkfifo(tmp_path / ".b.pt.00000000.tmp")
    (tmp_path / ".c.pt.00000000.tmp").symlink_to(tmp_path / "elsewhere")
    assert sweep(tmp_path) == []


def test_trash_may_be_a_folder(tmp_path):
    doomed = tmp_path / ".trash-0123abcd-step-1"
    doomed.mkdir()
    (doomed / "__0_0.distcp").touch()
    assert sweep(tmp_path) == [doomed]
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from holdfast.io.commit import commit

def fill(write):
    write(b"half")
    print("writing", flush=True)
    sys.stdin.read()  # until the pipe closes, or a signal comes
    write(b"half")

commit(sys.argv[1], 8, fill)
"""


@pytest.fixture
def writer(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "step-1.pt")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    with process:
        yield process
        process.kill()


def test_the_temp_of_a_living_writer_stays(tmp_path, writer):
    assert len(list(tmp_path.iterdir())) == 1
    assert sweep(tmp_path) == []
    writer.communicate()
    assert writer.returncode == 0
    assert (tmp_path / "step-1.pt").read_bytes() == b"halfhalf"


def test_the_temp_of_a_killed_writer_goes(tmp_path, writer):
    writer.kill()
    writer.wait()
    assert len(sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_trash_of_a_killed_pruning_goes(tmp_path, monkeypatch):
    (tmp_path / "step-1.pt").touch()

    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            trash([tmp_path / "step-1.pt"])
    assert len(sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_locks_no_temp_counts_as_dead(folder, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    assert names(dead_files(folder)) == [DEAD[3]]


def test_what_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    leftover = tmp_path / ".trash-0123abcd-a.pt"
    leftover.touch()

    def refuse(*_args, **_kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert sweep(tmp_path) == []
    assert caplog.messages == [
        f"{leftover}: a dead writer's leftover cannot be removed: [Errno 1] Operation not permitted"
    ]


def test_a_file_being_looked_at_is_not_in_the_way_of_a_commit(tmp_path):
    commit(tmp_path / "a.pt", 1, lambda write: write(b"x"))
    assert dead_files(tmp_path) == []


@pytest.mark.parametrize("unseen", ["step-00000003.pin", "step-00000003.pt"])
def test_what_may_be_pinned_stays_where_that_cannot_be_seen(tmp_path, monkeypatch, caplog, unseen):
    """os.path.lexists says no where the disk does not answer; it was removed then."""
    (tmp_path / "step-00000003.pin").touch()
    trash = tmp_path / ".trash-0123abcd-step-00000003.pt"
    trash.write_bytes(b"it")
    real = Path.lstat

    def lstat(self):
        if self.name == unseen:
            raise OSError(errno.EIO, "Input/output error")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", lstat)
        patch.setattr("os.path.lexists", lambda path: Path(path).name != unseen)
        assert sweep(tmp_path) == []
    assert trash.read_bytes() == b"it"
    assert "stays: whether it was pinned cannot be said" in caplog.text


def test_what_was_pinned_while_a_pruning_died_gets_its_name_back(tmp_path, caplog):
    (tmp_path / "step-00000003.pin").touch()
    (tmp_path / ".trash-0123abcd-step-00000003.pt").write_bytes(b"it")
    (tmp_path / ".trash-0123abcd-step-00000004.pt").write_bytes(b"gone")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003.pin",
        "step-00000003.pt",
    ]
    assert "was pinned while it was pruned: it is there again" in caplog.text
