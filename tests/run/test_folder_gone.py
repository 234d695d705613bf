"""The run's folder is removed or replaced while it is trained, or pruned through another object."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import holdfast
from holdfast import keep
from holdfast.errors import LockedError, UsageError

HOLD = """
import sys
from holdfast.runs.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def gone(folder):
    return (
        f"{folder} was removed or replaced while this run was saving there: "
        "checkpoints saved before may be gone"
    )


@pytest.fixture
def holding():
    """Another process that writes to a run, as far as its lock tells."""
    processes = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in processes:
        process.communicate()


def test_a_folder_that_is_gone_is_made_anew(tmp_path, training, at, log):
    folder = tmp_path / "run"
    run = training.run(folder)
    run.resume()
    run.save(0)
    log.clear()
    shutil.rmtree(folder)
    run.save(1)
    run.save(2)
    assert log.lines() == [gone(folder)]
    assert at.steps(folder) == [1, 2]
    assert [entry.sequence for entry in run.checkpoints()] == [0, 1]


def test_the_step_that_went_with_the_folder_can_be_saved_again(tmp_path, training, at):
    folder = tmp_path / "run"
    run = training.run(folder)
    run.save(3)
    shutil.rmtree(folder)
    assert run.save(3) is not None
    assert at.steps(folder) == [3]
    with pytest.raises(UsageError, match="behind the one that training has reached"):
        run.save(2)


def test_resuming_in_a_folder_that_is_gone_begins_anew(tmp_path, training):
    folder = tmp_path / "run"
    run = training.run(folder)
    run.save(3)
    shutil.rmtree(folder)
    assert run.resume() == 0


def test_a_loop_goes_on_without_its_folder(tmp_path, training, at):
    folder = tmp_path / "run"
    run = training.run(folder)
    for step in run.steps(4):
        training.step()
        if step == 2:
            shutil.rmtree(folder)
        run.save()
    assert at.steps(folder) == [2, 3]


def test_a_folder_that_another_process_has_made_anew_is_left_to_it(
    tmp_path, training, at, begun, log, holding
):
    folder = tmp_path / "run"
    run = training.run(folder, keep=keep.latest(1))
    run.save(0)
    shutil.rmtree(folder)
    begun(stop=1, folder=tmp_path / "other", seed=1).rename(folder)
    before = at.file(folder, 0).read_bytes()
    process = holding(folder)
    log.clear()
    for _ in range(2):
        with pytest.raises(LockedError, match=f"process {process.pid} on .* writes to this run"):
            run.save(1)
    with pytest.raises(LockedError):
        run.prune(dry_run=False)
    assert log.lines() == [gone(folder)]
    assert at.names(folder) == ["step-00000000.pt"]
    assert at.file(folder, 0).read_bytes() == before


def test_checkpoints_of_the_same_name_in_a_new_folder_count_as_what_they_are(
    tmp_path, training, at, begun, log
):
    folder = tmp_path / "run"
    run = training.run(folder, keep=keep.latest(2))
    run.save(0)
    run.save(1)
    shutil.rmtree(folder)
    begun(stop=2, folder=tmp_path / "other", seed=1).rename(folder)
    theirs = [entry.id for entry in run.checkpoints()]
    log.clear()
    run.save(2)
    assert [entry.sequence for entry in run.checkpoints()] == [1, 2]
    assert run.checkpoints()[0].id == theirs[1]
    assert log.lines()[0] == gone(folder)
    assert "was not resumed" in log.lines()[1]


def test_a_file_put_in_the_place_of_a_doomed_one_is_not_removed(tmp_path, training, at, begun):
    other = begun(stop=1, folder=tmp_path / "other", seed=1)
    folder = tmp_path / "run"
    run = training.run(folder, keep=keep.latest(1))
    run.save(0)
    shutil.copy(at.file(other, 0), at.file(folder, 0))
    run.save(1)
    assert at.names(folder) == ["step-00000000.pt", "step-00000001.pt"]
    assert at.file(folder, 0).read_bytes() == at.file(other, 0).read_bytes()


def test_pruning_through_another_object_leaves_the_training_its_folder(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    run.resume()
    for step in range(4):
        run.save(step)
    run.resume(1)
    run.save(4)
    pruner = holdfast.Run(tmp_path, keep=keep.latest(1))
    decided = {one.entry.step: one.why for one in pruner.prune().decisions if one.is_kept}
    assert decided == {
        1: "the one resumed from",
        4: "the newest checkpoint, the newest that verified, latest(1)",
    }
    pruner.prune(dry_run=False)
    assert at.steps(tmp_path) == [1, 4]
    run.save(5)
    at.Training().run(tmp_path, keep=keep.latest(1)).prune(dry_run=False)
    run.save(6)
    assert at.steps(tmp_path) == [1, 5, 6]


def test_pruning_does_not_replace_a_run_that_was_closed(tmp_path, training, at, holding):
    run = training.run(tmp_path, keep=None)
    run.save(0)
    run.save(1)
    run.close()
    pruner = holdfast.Run(tmp_path, keep=keep.latest(1))
    pruner.prune(dry_run=False)
    holding(tmp_path).communicate()  # the lock is free again
    run.save(2)
    assert at.steps(tmp_path) == [1, 2]


def test_a_run_that_another_process_writes_is_not_pruned(begun, at, holding):
    folder = begun()
    process = holding(folder)
    with pytest.raises(LockedError, match=f"process {process.pid} on"):
        holdfast.Run(folder, keep=keep.latest(1)).prune(dry_run=False)
    assert at.steps(folder) == [0, 1, 2, 3, 4]
    assert len(holdfast.Run(folder, keep=keep.latest(1)).prune().doomed) == 4


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_reader_must_say_what_to_keep(begun, at, dry_run):
    folder = begun()
    with pytest.raises(UsageError) as caught:
        holdfast.Run(folder).prune(dry_run=dry_run)
    assert str(caught.value) == (
        "prune() goes by keep=, and this Run, which only reads, was given none\n"
        f"  in {folder}\n"
        "  Say it: holdfast.Run(folder, keep=holdfast.keep.latest(3)).prune(dry_run=False)"
    )
    assert at.steps(folder) == [0, 1, 2, 3, 4]
