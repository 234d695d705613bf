from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from holdfast.errors import FileError, LockedError
from holdfast.runs import keep, pins, removing
from holdfast.runs.lock import RunLock
from holdfast.runs.removing import plan_of_run, remove


@pytest.fixture
def run(tmp_path: Path) -> Path:
    import torch

    import holdfast

    with holdfast.Run(tmp_path / "run", keep=keep.latest(9), model=torch.nn.Linear(1, 1)) as run:
        for step in range(4):
            run.save(step, metrics={"loss": step})
    return tmp_path / "run"


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if path.name != ".lock")


def test_the_newest_whole_one_stays(run) -> None:
    plan = plan_of_run(run, keep.best("loss"), is_whole=lambda path: path.name < "step-00000002")
    why = {decision.entry.name: decision.why for decision in plan.decisions}
    assert why == {
        "step-00000000.pt": "best('loss')",
        "step-00000001.pt": "the newest that verified",
        "step-00000002.pt": "best('loss') does not keep it",
        "step-00000003.pt": "the newest checkpoint",
    }
    remove(run, plan)
    assert names(run) == ["step-00000000.pt", "step-00000001.pt", "step-00000003.pt"]


def test_what_was_pinned_or_removed_since_the_plan_is_left_alone(run) -> None:
    plan = plan_of_run(run, keep.latest(1), is_whole=lambda _: True)
    pins.pin(run / "step-00000000.pt")
    (run / "step-00000001.pt").unlink()
    removed = remove(run, plan)
    assert names(run) == ["step-00000000.pin", "step-00000000.pt", "step-00000003.pt"]
    assert removed == [run / "step-00000002.pt"]
    done = plan.as_done(removed)
    assert [entry.name for entry in done.doomed] == ["step-00000002.pt"]
    assert done.decisions[0].is_kept
    assert done.decisions[0].why.startswith("pinned, replaced or no longer readable")


def test_what_a_pruning_could_not_remove_goes_with_the_next(run, monkeypatch, caplog) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(FileError, match="old checkpoints could not be removed"):
            remove(run, plan_of_run(run, keep.latest(3), is_whole=lambda _: True))
    assert [name for name in names(run) if "trash" in name]
    remove(run, plan_of_run(run, keep.latest(2), is_whole=lambda _: True))
    assert names(run) == ["step-00000002.pt", "step-00000003.pt"]


def test_a_run_whose_folder_cannot_be_listed_is_not_pruned(run, monkeypatch) -> None:
    plan = plan_of_run(run, keep.latest(3), is_whole=lambda _: True)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(FileError, match="Input/output error"):
        removing.trash_same(plan.doomed)


def refuse(*_args: object, **_options: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_run_in_training_is_refused(run) -> None:
    plan = plan_of_run(run, keep.latest(1), is_whole=lambda _: True)
    with RunLock(run), pytest.raises(LockedError):
        remove(run, plan)
    assert len(names(run)) == 4


def test_nothing_to_remove_touches_nothing(run) -> None:
    (run / ".lock").unlink()
    remove(run, plan_of_run(run, keep.latest(9), is_whole=lambda _: True))
    assert not (run / ".lock").exists()


def test_what_the_system_refuses_is_a_letter(run, monkeypatch) -> None:
    def refuse(_paths, **_options):
        raise OSError(errno.EIO, "Input/output error")

    plan = plan_of_run(run, keep.latest(1), is_whole=lambda _: True)
    monkeypatch.setattr(removing, "trash", refuse)
    with pytest.raises(FileError) as caught:
        remove(run, plan)
    assert caught.value.errno == errno.EIO
    assert str(caught.value) == (
        "old checkpoints could not be removed: Input/output error\n"
        f"  in {run}\n"
        f"  Check who owns the folder and its permissions: ls -ld {run}"
    )
