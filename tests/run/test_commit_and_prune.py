"""A checkpoint exists once it is durable, and only then others go."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import pytest

import holdfast
from holdfast import keep
from holdfast.errors import FileError, NoCheckpointError, UsageError
from holdfast.runs import listing, removing


def test_a_committed_checkpoint_is_never_written_again(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    known = {}
    for step in run.steps(4):
        training.step()
        run.save(metrics={"loss": 1.0})
        run.save()
        path = at.file(tmp_path, step)
        known[path] = (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for other, (inode, time, data) in known.items():
            assert (other.stat().st_ino, other.stat().st_mtime_ns) == (inode, time)
            assert other.read_bytes() == data


def test_the_new_one_is_durable_before_an_old_one_goes(tmp_path):
    """Seen by strace: rename, fsync of the folder; only then trash, fsync, unlink."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch, holdfast\n"
        "run = holdfast.Run(sys.argv[1], keep=holdfast.keep.latest(1), m=torch.nn.Linear(2, 2))\n"
        "for _ in run.steps(2): run.save()\n"
    )
    folder, log = tmp_path / "run", tmp_path / "strace"
    calls = "rename,renameat,renameat2,fsync,unlink,unlinkat"
    subprocess.run(
        ["strace", "-f", "-y", "-o", log, "-e", f"trace={calls}", sys.executable, script, folder],
        check=True,
        capture_output=True,
    )
    seen = [_short(line) for line in log.read_text().splitlines() if f"{folder}" in line]
    save = ["fsync temp", "rename temp step", "fsync run"]
    assert seen == [*save, *save, "rename step trash", "fsync run", "unlink trash"]


def _short(line):
    """Such as ``rename temp step`` of a line of strace."""
    call = re.sub(r"\W.*", "", line.split(None, 1)[1])
    paths = re.findall(r'[<"]([^<">]*run[^<">]*)[">]', line)
    kinds = {r"\.trash-": "trash", r"\.tmp$": "temp", r"/step-": "step", r"/run$": "run"}
    shown = [next(kind for mark, kind in kinds.items() if re.search(mark, p)) for p in paths]
    return " ".join([re.sub(r"at2?$", "", call), *shown])


def test_pruning_goes_by_the_policy_and_says_why(begun, at):
    folder = begun(keep=None)
    run = holdfast.Run(folder, keep=keep.latest(1) | keep.best("loss"))
    plan = run.prune()
    assert str(plan) == (
        "step-00000000.pt  goes: none of latest(1) | best('loss') keeps it\n"
        "step-00000001.pt  goes: none of latest(1) | best('loss') keeps it\n"
        "step-00000002.pt  stays: best('loss')\n"
        "step-00000003.pt  goes: none of latest(1) | best('loss') keeps it\n"
        "step-00000004.pt  stays: the newest checkpoint, the newest that verified, latest(1)"
    )
    assert at.steps(folder) == [0, 1, 2, 3, 4]
    run.prune(dry_run=False)
    assert at.steps(folder) == [2, 4]
    assert at.names(folder) == ["step-00000002.pt", "step-00000004.pt"]


def test_with_keep_none_all_stay(begun, at):
    folder = begun(keep=None)
    holdfast.Run(folder, keep=None).prune(dry_run=False)
    assert at.steps(folder) == [0, 1, 2, 3, 4]


def test_pruning_a_run_that_is_not_there_is_an_error_and_makes_nothing(tmp_path):
    for dry_run in (True, False):
        with pytest.raises(holdfast.errors.NoCheckpointError, match="there is no such folder"):
            holdfast.Run(tmp_path / "nothing", keep=keep.latest(1)).prune(dry_run=dry_run)
    assert not (tmp_path / "nothing").exists()


def test_pruning_never_removes_the_newest(tmp_path, training, at):
    run = training.run(tmp_path, keep=keep.best("loss"))
    for step in range(5):
        run.save(step, metrics={"loss": step})
    assert at.steps(tmp_path) == [0, 4]


def test_pruning_never_removes_the_newest_that_verified(begun, at):
    """The newest may be damaged; this process has not read it, so it does not count."""
    folder = begun()
    at.damage(at.file(folder, 4))
    at.damage(at.file(folder, 3))
    run = holdfast.Run(folder, keep=keep.latest(1))
    decided = {one.entry.step: one.why for one in run.prune().decisions if one.is_kept}
    assert decided == {2: "the newest that verified", 4: "the newest checkpoint, latest(1)"}
    run.prune(dry_run=False)
    assert at.steps(folder) == [2, 4]


def test_pruning_never_removes_the_one_resumed_from(begun, at):
    folder = begun()
    run = at.Training().run(folder, keep=keep.latest(1))
    run.resume(1)
    for step in (2, 3, 4):
        run.save(step)
    assert at.steps(folder) == [1, 4]


def test_pruning_never_removes_what_cannot_be_read(begun, at):
    folder = begun()
    at.truncate(at.file(folder, 1))
    run = at.Training().run(folder, keep=keep.latest(1))
    run.resume()
    run.save(5)
    assert at.names(folder) == ["step-00000001.pt", "step-00000004.pt", "step-00000005.pt"]
    assert [entry.name for entry in run.checkpoints()][-1] == "step-00000001.pt"


def test_keep_every_keeps_a_trail(tmp_path, training, at):
    run = training.run(tmp_path, keep=keep.latest(2) | keep.every(steps=4))
    for _ in run.steps(12):
        run.save()
    assert at.steps(tmp_path) == [0, 3, 7, 10, 11]


def test_what_dead_writers_left_is_removed_at_the_next_start(begun, at, log):
    folder = begun(stop=1)
    dead = [folder / ".step-00000001.pt.0123abcd.tmp", folder / ".trash-0123abcd-step-0.pt"]
    for path in dead:
        path.write_bytes(b"half")
    holdfast.Run(folder).checkpoints()
    assert all(path.exists() for path in dead)
    at.Training().run(folder).resume()
    assert at.names(folder) == ["step-00000000.pt"]
    assert [line for line in log.infos() if "removed" in line] == [
        f"removed {path}, left by a writer that died" for path in dead
    ]


def test_the_temp_of_a_living_writer_is_left_alone(begun, at):
    fcntl = pytest.importorskip("fcntl", reason="this system has no locks")
    folder = begun(stop=1)
    temp = folder / ".step-00000001.pt.0123abcd.tmp"
    with temp.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        at.Training().run(folder).resume()
        assert temp.exists()


def test_a_new_run_on_a_folder_this_process_holds_replaces_the_old_one(tmp_path, training, at):
    old = training.run(tmp_path, keep=None)
    old.save(0)
    new = at.Training().run(tmp_path, keep=None)
    assert new.resume() == 1
    new.save(1)
    with pytest.raises(UsageError) as caught:
        old.save(1)
    assert str(caught.value) == (
        "this Run was replaced by a newer one on the same folder\n"
        f"  in {tmp_path}\n"
        "  Save with the new one, or call resume() to take the folder back."
    )
    assert at.steps(tmp_path) == [0, 1]
    assert old.resume() == 2
    old.save(2)


def test_a_forked_child_refuses_to_save_and_leaves_the_lock(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    run.save(0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run.save(1)
        except UsageError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert said == (
        "a forked child cannot save to the run of its parent\n"
        f"  in {tmp_path}\n"
        f"  wanted process {os.getpid()}, found process {child}\n"
        "  Save in the process that made the Run."
    )
    assert at.names(tmp_path) == ["step-00000000.pt"]
    assert run.save(1).step == 1
    fcntl = pytest.importorskip("fcntl", reason="this system has no locks")
    with (tmp_path / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_parent_folders_are_created(tmp_path, training, at):
    training.run(tmp_path / "a" / "b" / "c").save(0)
    assert at.steps(tmp_path / "a" / "b" / "c") == [0]


def test_close_gives_the_lock_back_and_a_closed_run_can_go_on(tmp_path, training, at):
    fcntl = pytest.importorskip("fcntl", reason="this system has no locks")
    with training.run(tmp_path, keep=None) as run:
        run.save(0)
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run.save(1)
    assert at.steps(tmp_path) == [0, 1]


def test_a_folder_that_cannot_be_listed_to_prune_costs_no_save(
    tmp_path, training, log, monkeypatch
):
    """The new checkpoint is durable by then; the next save prunes."""

    def refuse(entries, folder):
        raise FileError("this cannot be read: Input/output error", errno=5, file=folder)

    with training.run(tmp_path / "run", keep=keep.latest(1)) as run:
        run.save(0)
        with monkeypatch.context() as patch:
            patch.setattr(listing, "still_there", refuse)
            assert run.save(1).done
        assert log.lines() == [
            f"{run.folder} is not pruned: this cannot be read: Input/output error"
        ]
        assert [entry.step for entry in run.checkpoints()] == [0, 1]
        run.save(2)
        assert [entry.step for entry in run.checkpoints()] == [2]


def test_an_explicit_prune_that_the_system_refuses_is_an_error(tmp_path, training, monkeypatch):
    def refuse(_paths, **_options):
        raise OSError(errno.EIO, "Input/output error")

    with training.run(tmp_path / "run", keep=keep.latest(3)) as run:
        run.save(0)
        run.save(1)
    with training.run(tmp_path / "run", keep=keep.latest(1)) as run:
        with monkeypatch.context() as patch:
            patch.setattr(removing, "trash", refuse)
            with pytest.raises(FileError, match="old checkpoints could not be removed"):
                run.prune(dry_run=False)
        assert [entry.step for entry in run.checkpoints()] == [0, 1]
        run.prune(dry_run=False)
        assert [entry.step for entry in run.checkpoints()] == [1]


def test_a_resume_that_could_not_list_the_folder_leaves_the_next_save_the_newest(
    tmp_path, training, monkeypatch
):
    """It held the lock and knew of no checkpoint: what it saved came before those there were."""
    with training.run(tmp_path / "run") as run:
        run.save(0)
        run.save(1)

    def refuse(folder):
        raise FileError("this cannot be read: Input/output error", errno=5, file=folder)

    with training.run(tmp_path / "run", keep=keep.latest(1)) as run:
        with monkeypatch.context() as patch:
            patch.setattr(listing, "list_run", refuse)
            with pytest.raises(FileError):
                run.resume()
        run.save(7)
        assert [entry.step for entry in run.checkpoints()] == [7]


def test_what_could_not_be_read_for_a_moment_does_not_come_after_what_is_saved_then(
    tmp_path, training, monkeypatch
):
    with training.run(tmp_path / "run") as run:
        for step in range(3):
            run.save(step)
    real = listing.read_briefly

    def refuse(path):
        raise FileError("this cannot be read: Input/output error", errno=5, file=path)

    with training.run(tmp_path / "run", keep=keep.latest(9)) as run:
        with monkeypatch.context() as patch:
            patch.setattr(listing.list_run, "__kwdefaults__", {"read": refuse})
            with pytest.raises(NoCheckpointError) as caught:
                run.resume()
        assert str(caught.value).endswith(
            "Of the newest the system says: Input/output error. Try again when that is mended."
        )
        assert listing.list_run.__kwdefaults__ == {"read": real}
        run.save(7)
        assert [entry.step for entry in run.checkpoints()] == [0, 1, 2, 7]


def test_that_also_holds_where_pruning_has_left_few_of_many(tmp_path, training, monkeypatch):
    """Its sequence number is far above the count of what is there."""
    with training.run(tmp_path / "run", keep=keep.latest(1)) as run:
        for step in range(6):
            run.save(step)

    def refuse(path):
        raise FileError("this cannot be read: Input/output error", errno=5, file=path)

    with training.run(tmp_path / "run", keep=keep.latest(9)) as run:
        with monkeypatch.context() as patch:
            patch.setattr(listing.list_run, "__kwdefaults__", {"read": refuse})
            with pytest.raises(NoCheckpointError):
                run.resume()
        run.save(7)
        assert [entry.step for entry in run.checkpoints()] == [5, 7]
