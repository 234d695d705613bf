"""All or nothing: what commit leaves behind when all goes well, and when it does not."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import FileError, NoSpaceError, UsageError
from holdfast.io import commit as committing
from holdfast.io import commit_folder as committing_folder
from holdfast.io import folders, locks
from holdfast.io.commit import commit
from holdfast.io.commit_folder import commit_folder
from holdfast.io.folders import make_folders, trash


def filling(data: bytes) -> Callable[[Any], None]:
    return lambda write: [write(data[i : i + 7]) for i in range(0, len(data), 7)]  # type: ignore[return-value]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_bytes_are_there_and_nothing_else(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    commit(tmp_path / "a.pt", len(data), lambda write: (write(data[:5]), write(data[5:])))  # type: ignore[arg-type]
    assert (tmp_path / "a.pt").read_bytes() == data
    assert names(tmp_path) == ["a.pt"]


def test_parents_are_created(tmp_path: Path) -> None:
    commit(tmp_path / "a/b/c.pt", 3, filling(b"abc"))
    assert (tmp_path / "a/b/c.pt").read_bytes() == b"abc"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_plain_open(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        commit(tmp_path / "ours", 1, filling(b"x"))
        (tmp_path / "theirs").write_bytes(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_an_overwritten_file_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    target.write_bytes(b"old")
    target.chmod(0o640)
    commit(target, 3, filling(b"new"))
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_symlink_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.pt").symlink_to(tmp_path / "real" / "a.pt")
    commit(tmp_path / "link.pt", 3, filling(b"abc"))
    assert (tmp_path / "link.pt").is_symlink()
    assert (tmp_path / "real" / "a.pt").read_bytes() == b"abc"


def test_what_is_no_regular_file_is_written_directly(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE)
    commit(fifo, 3, filling(b"abc"))
    assert reader.communicate(timeout=10)[0] == b"abc"
    commit("/dev/null", 3, filling(b"abc"))


def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        commit(tmp_path, 3, filling(b"abc"))
    assert str(caught.value) == (
        "a file was to be written where a folder is\n"
        f"  in {tmp_path}\n"
        f"  Give a file name inside the folder, such as '{tmp_path}/checkpoint.pt'."
    )


def test_a_file_where_a_folder_is_needed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="choose another path"):
        commit(tmp_path / "file" / "a.pt", 3, filling(b"abc"))


def test_an_error_while_filling_leaves_the_old_file_and_no_temp(tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    target.write_bytes(b"old")

    def fill(write: Any) -> None:
        write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit(target, 8, fill)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.pt"]


def test_fewer_bytes_than_planned_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 bytes written where 4 were planned"):
        commit(tmp_path / "a.pt", 4, filling(b"abc"))
    assert names(tmp_path) == []


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoSpaceError) as caught:
        commit(tmp_path / "a.pt", 1 << 60, filling(b""))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).startswith(
        "the disk has no room for this checkpoint; nothing was written\n"
        f"  in {tmp_path}/a.pt\n"
        "  wanted 1,152,921,504,606,846,976 bytes free, found "
    )
    assert names(tmp_path) == []


def on_tmpfs(tmp_path: Path, body: str) -> str:
    """Run Python code in a mount namespace of its own, with a tmpfs of 1 MiB at ``full``."""
    full = tmp_path / "full"
    full.mkdir()
    script = tmp_path / "body.py"
    script.write_text(body)
    command = f"mount -t tmpfs -o size=1m none {full} && exec {sys.executable} {script} {full}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pain_04_a_disk_that_fills_up_while_writing_is_an_error(tmp_path: Path) -> None:
    """pytorch #191391: a full disk, and the checkpoint was committed all the same."""
    said = on_tmpfs(
        tmp_path,
        """
import os, sys
from pathlib import Path
from holdfast.errors import NoSpaceError
from holdfast.io import commit as committing
from holdfast.io import folders, locks
folder = Path(sys.argv[1])
committing.commit(folder / "a.pt", 1000, lambda write: write(b"x" * 1000))
committing.check_room = lambda *_: None   # as if another process took the space
try:
    committing.commit(folder / "a.pt", 2 << 20, lambda write: write(bytes(2 << 20)))
except NoSpaceError as error:
    print(error)
print(sorted(os.listdir(folder)), (folder / "a.pt").stat().st_size)
committing.commit(folder / "a.pt", 10, lambda write: write(b"y" * 10))
print((folder / "a.pt").read_bytes())
""",
    )
    assert "the checkpoint could not be written: No space left on device" in said
    assert "Free some space; in a run, keep= says how many checkpoints stay." in said
    assert said.endswith("['a.pt'] 1000\nb'yyyyyyyyyy'\n")


def test_pain_02_the_temp_lies_beside_the_target(tmp_path: Path) -> None:
    """pytorch-lightning #21253, #20270, #20243: staged in /tmp, full, across file systems."""
    seen = []
    commit(tmp_path / "a.pt", 1, lambda write: (seen.extend(names(tmp_path)), write(b"x")))  # type: ignore[arg-type]
    [temp] = seen
    assert temp.startswith(".a.pt.")
    assert temp.endswith(".tmp")


def test_pain_03_a_permission_error_is_raised(tmp_path: Path) -> None:
    """pytorch-lightning #21800: a permission error was swallowed: "saved", and no file."""
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    code = (
        "import os, sys\n"
        "from holdfast.io.commit import commit\n"
        "os.setuid(65534)\n"
        "try: commit(sys.argv[1], 1, lambda write: write(b'x'))\n"
        "except OSError as error: print(type(error).__name__, error)\n"
    )
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    for above in tmp_path.parents:
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "a.pt")], capture_output=True, text=True
    )
    assert done.stdout.startswith("FileError the checkpoint could not be written: Permission"), done
    assert f"ls -ld {folder}" in done.stdout


def test_only_once_is_fsync_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(committing, "fsync_file", failing)
    with pytest.raises(FileError, match="Input/output error"):
        commit(tmp_path / "a.pt", 1, filling(b"x"))
    assert len(calls) == 1
    assert names(tmp_path) == []


def test_the_order_of_system_calls_is_the_promise(tmp_path: Path) -> None:
    """write, fsync the file, rename, fsync the folder: seen by strace."""
    log = tmp_path / "strace"
    target = tmp_path / "new" / "a.pt"
    code = f"from holdfast.io.commit import commit; commit({str(target)!r}, 1, lambda w: w(b'x'))"
    traced = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=write,fsync,rename,mkdir"]
    subprocess.run([*traced, sys.executable, "-c", code], check=True)
    calls = [line.split(None, 1)[1] for line in log.read_text().splitlines() if "new" in line]
    kinds = [call.partition("(")[0] for call in calls]
    assert kinds == ["mkdir", "write", "fsync", "rename", "fsync"]
    assert ".tmp>" in calls[2]
    assert calls[4].startswith("fsync(")
    assert f"{tmp_path}/new>" in calls[4]


def test_trash_removes_all(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    trash([tmp_path / "a", tmp_path / "b"])
    assert names(tmp_path) == ["c"]


@pytest.mark.parametrize("name", ["x" * 252 + ".pt", "模" * 84 + ".p"])
def test_the_longest_names_are_committed_and_trashed(tmp_path: Path, name: str) -> None:
    commit(tmp_path / name, 1, filling(b"x"))
    assert names(tmp_path) == [name]
    trash([tmp_path / name])
    assert names(tmp_path) == []


def test_a_sweeper_in_the_wrong_instant_costs_another_temp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    really = locks.open_locked

    def swept_at_once(path: Path, flags: int, mode: int) -> int:
        opened.append(path)
        if len(opened) == 1:
            raise BlockingIOError  # the sweeper holds it
        fd = really(path, flags, mode)
        if len(opened) == 2:
            path.unlink()  # the sweeper was just before the lock
        return fd

    monkeypatch.setattr(locks, "open_locked", swept_at_once)
    commit(tmp_path / "a.pt", 3, filling(b"abc"))
    assert len(set(opened)) == 3
    assert names(tmp_path) == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == b"abc"


def test_make_folders_takes_what_is_there(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b")
    make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_works_without_what_other_systems_lack(tmp_path: Path) -> None:
    """No fcntl, no statvfs, no O_CLOEXEC ownership calls: as on Windows."""
    code = f"""
import sys, os, random
sys.modules["fcntl"] = None
for name in ("statvfs", "fchown", "fchmod", "O_DIRECTORY", "preadv", "register_at_fork"):
    delattr(os, name)
from holdfast.io.commit import commit
from holdfast.io.commit_folder import commit_folder
commit({str(tmp_path / "a.pt")!r}, 3, lambda write: write(b"abc"))
print(open({str(tmp_path / "a.pt")!r}).read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "abc\n", done.stderr


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "the path to write to is empty\n  found ''\n  Give a file name: model.pt."),
        ("a\0b", "this cannot be the name of a file\n  found 'a\\x00b'\n  Choose another path."),
        (
            "a\ud800",
            "this cannot be the name of a file\n  found 'a\\ud800'\n  Choose another path.",
        ),
    ],
)
def test_what_is_no_name_of_a_file_is_a_letter(name: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        commit(name, 1, filling(b"x"))
    assert str(caught.value) == what


def test_a_file_system_that_counts_no_space_is_not_taken_for_full() -> None:
    with pytest.raises(FileError) as caught:
        commit("/proc/x.pt", 1, filling(b"x"))
    assert not isinstance(caught.value, NoSpaceError)
    assert str(caught.value).startswith("the checkpoint could not be written: ")


def test_a_replaced_file_that_could_not_be_made_durable_is_not_called_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    target = tmp_path / "a.pt"
    target.write_bytes(b"old")
    monkeypatch.setattr(committing, "fsync_folder", failing)
    with pytest.raises(FileError) as caught:
        commit(target, 3, filling(b"new"))
    assert target.read_bytes() == b"new"
    assert caught.value.errno == errno.EIO
    assert str(caught.value) == (
        "the new checkpoint is in place of the old one, but may not survive a power cut: "
        "Input/output error\n"
        f"  in {target}\n"
        "  Its folder could not be synced. Save again, on another disk if this one fails."
    )


def test_a_new_file_that_could_not_be_made_durable_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(committing, "fsync_folder", failing)
    with pytest.raises(FileError, match="Nothing was lost"):
        commit(tmp_path / "a.pt", 3, filling(b"new"))
    assert names(tmp_path) == []


# ---- a head that is known last, and folders


def test_the_head_is_written_over_once_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    commit(path, 8, lambda write: write(b"????data"), head=lambda: b"head")
    assert path.read_bytes() == b"headdata"


def test_a_head_needs_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError) as caught:
        commit(tmp_path / "pipe", 4, lambda write: write(b"data"), head=lambda: b"h")
    assert str(caught.value) == (
        "a file with checksums at its beginning is not written into a pipe or a device\n"
        f"  found {tmp_path}/pipe\n"
        "  Give the name of a file."
    )


def put(data: bytes):
    return lambda write: write(data)


def fail(write) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_folder_is_there_whole(tmp_path: Path) -> None:
    files = [("a", 3, put(b"one"), None), ("b", 5, put(b"?????"), lambda: b"three")]
    commit_folder(tmp_path / "new" / "folder", files)
    folder = tmp_path / "new" / "folder"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a": b"one",
        "b": b"three",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the checkpoint could not be written: Input/output error"):
        commit_folder(tmp_path / "folder", [("a", 3, put(b"one"), None), ("b", 3, fail, None)])
    assert not list(tmp_path.iterdir())


def test_a_folder_is_synced_before_it_has_its_name(tmp_path: Path) -> None:
    """As strace sees it: every file, the folder, the rename, the folder around it."""
    code = (
        "import sys; from holdfast.io.commit_folder import commit_folder\n"
        "commit_folder(sys.argv[1], [(n, 1, lambda write: write(b'x'), None) for n in 'ab'])"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", trace]
    command += [sys.executable, "-c", code, tmp_path / "folder"]
    subprocess.run([*map(str, command)], check=True)
    calls = re.findall(r"(fsync|rename)\w*\((.*)", trace.read_text())
    seen = [name for name, args in calls if str(tmp_path) in args]
    assert seen == ["fsync", "fsync", "fsync", "rename", "fsync"]


def test_what_another_writer_has_saved_meanwhile_is_not_removed(tmp_path, monkeypatch) -> None:
    """Its file was there when ours got the name: ours stays in its place, though not durable."""

    def fill(write: Any) -> None:
        commit(tmp_path / "a", 5, filling(b"other"))
        monkeypatch.setattr(committing, "fsync_folder", refuse)
        write(b"ours!")

    def refuse(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(FileError, match="the new checkpoint is in place of the old one"):
        commit(tmp_path / "a", 5, fill)
    assert (tmp_path / "a").read_bytes() == b"ours!"


def test_a_folder_whose_name_is_not_durable_can_be_written_again(tmp_path, monkeypatch) -> None:
    fsync_folder, calls = committing_folder.fsync_folder, []

    def refuse(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        fsync_folder(folder)

    monkeypatch.setattr(committing_folder, "fsync_folder", refuse)
    files = [("one", 3, filling(b"abc"), None)]
    with pytest.raises(FileError, match="Input/output error"):
        commit_folder(tmp_path / "out", files)
    assert list(tmp_path.iterdir()) == []
    commit_folder(tmp_path / "out", files)
    assert (tmp_path / "out" / "one").read_bytes() == b"abc"


def test_what_fails_while_cleaning_up_hides_no_error(tmp_path, monkeypatch, caplog) -> None:
    def fill(write: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(NoSpaceError) as caught:
        commit(tmp_path / "a", 5, fill)
    assert caught.value.errno == errno.ENOSPC
    assert "cleaning up after" in caplog.text
    assert "Read-only file system" in caplog.text


def test_a_folder_whose_name_could_not_be_synced_is_made_anew(tmp_path, monkeypatch):
    """Else the next call would find it there, and nobody would ever sync its name."""
    synced = []

    def refuse_once(folder, real=folders.fsync_folder):
        synced.append(folder)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")
        real(folder)

    monkeypatch.setattr(folders, "fsync_folder", refuse_once)
    with pytest.raises(OSError, match="Input/output"):
        folders.make_folders(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    folders.make_folders(tmp_path / "run")
    assert synced == [tmp_path, tmp_path]
