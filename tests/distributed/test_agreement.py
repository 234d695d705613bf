"""What ranks decide, they decide alike; whoever fails, is late or is gone is named to all."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import rank_jobs as jobs
from ranks import Group

import holdfast


def wait_for(*paths: Path) -> None:
    for _ in range(2000):
        if all(path.exists() for path in paths):
            return
        time.sleep(0.02)
    raise AssertionError(f"{paths} did not come")


def steps_of(folder: Path) -> list[int | None]:
    return [entry.step for entry in holdfast.Run(folder).checkpoints()]


MISSING = {
    "Run": "ranks 1 and 2 did not call holdfast.Run('{folder}') within 2 seconds",
    "save": "ranks 1 and 2 did not call run.save(step=1) within 2 seconds",
}


@pytest.mark.parametrize("where", MISSING)
def test_a_call_that_others_do_not_make_is_named(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = Group(3, jobs.missing_call, str(folder), where).values()
    assert said[1:] == ["", ""]
    assert said[0].splitlines() == [
        MISSING[where].format(folder=folder),
        "  wanted the same call on all 3 ranks, found 1 of them are there",
        "  Call it on every rank, without `if rank == 0:`. holdfast writes once.",
    ]
    assert not folder.exists() or steps_of(folder) == []


@pytest.mark.parametrize(
    ("where", "found"),
    [("other", "run.prune(dry_run=False)"), ("step", "run.save(step=2)")],
)
def test_ranks_that_make_other_calls_are_told_at_once(
    where: str, found: str, tmp_path: Path
) -> None:
    said = Group(2, jobs.missing_call, str(tmp_path / "run"), where).values()
    for text in said:
        assert text.startswith("the ranks of this training do not make the same calls")
        assert f"wanted run.save(step=1), as on rank 0, found {found} on rank 1" in text


@pytest.mark.parametrize("on", [0, 1])
def test_a_save_that_fails_on_one_rank_fails_on_all(on: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = Group(3, jobs.failing_save, str(folder), on).values()
    for rank, texts in enumerate(said):
        assert len(texts) == 1
        assert texts[0].startswith("CaptureError:" if rank == on else f"RanksError: rank {on}: ")
        assert "could not be read" in texts[0]
    assert steps_of(folder) == [1, 3]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_hangs_nobody(killed: int, background: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    group = Group(2, jobs.save_for_ever, str(folder), background)
    wait_for(folder / "step-00000005.pt")
    group.send(killed, signal.SIGKILL)
    began = time.monotonic()
    ended = group.ends(60)
    assert time.monotonic() - began < 20
    assert ended[killed].exit_code == -signal.SIGKILL
    assert f"rank {killed} of this training has ended" in ended[1 - killed].value
    newest = holdfast.Run(folder).latest()
    assert newest is not None
    assert holdfast.verify(newest.path).ok


@pytest.mark.parametrize("told", [0, 1])
@pytest.mark.parametrize(("seconds", "every"), [(0.0, 50), (0.3, None)])
def test_one_that_is_told_to_stop_is_enough(
    told: int, seconds: float, every: int | None, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    group = Group(2, jobs.stopped, str(folder), seconds, every)
    wait_for(tmp_path / "run.0", tmp_path / "run.1")
    group.send(told, signal.SIGTERM)
    assert [each.exit_code for each in group.ends()] == [75, 75]
    last = holdfast.Run(folder).latest()
    assert last is not None
    assert holdfast.verify(last.path).ok


def test_the_clock_is_that_of_rank_0(tmp_path: Path) -> None:
    said = Group(2, jobs.by_the_clock, str(tmp_path / "run")).values()
    assert said[0] == said[1] != []


def test_ranks_with_other_folders(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    for text in Group(2, jobs.another_folder, folder, "name").values():
        assert f"wanted holdfast.Run('{folder}0'), as on rank 0" in text
        assert f"found holdfast.Run('{folder}1') on rank 1" in text


def test_a_folder_that_looks_otherwise_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holdfast.Run(folder, background=False, model=jobs.small_model()) as run:
        for step in (1, 2):
            run.save(step)
    for text in Group(2, jobs.another_folder, str(folder), "content").values():
        assert text.startswith("rank 1 sees another folder than rank 0")
        assert "found no such file" in text


@pytest.mark.parametrize("damage_on", [None, 0, 1])
def test_all_fall_back_where_one_must(damage_on: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = jobs.small_model()
    with holdfast.Run(folder, background=False, model=model) as run:
        for step in (1, 2):
            model[0].weight.data.fill_(step)
            run.save(step)
    step = 2 if damage_on is None else 1
    said = Group(2, jobs.resumed, str(folder), damage_on).values()
    assert said == [{"next": step + 1, "sum": 64.0 * step, "error": ""}] * 2


@pytest.mark.parametrize("damage_on", [0, 1])
def test_nothing_changes_anywhere_where_one_cannot_restore(damage_on: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holdfast.Run(folder, background=False, model=jobs.small_model()) as run:
        run.save(2)
    for said in Group(2, jobs.resumed, str(folder), damage_on, 2).values():
        assert said["sum"] == 0
        assert "these bytes are not those" in said["error"]


def test_rank_0_prunes_and_all_know(tmp_path: Path) -> None:
    said = Group(2, jobs.pruned, str(tmp_path / "run")).values()
    assert said == [["step-00000001.pt", "step-00000002.pt", "step-00000003.pt"]] * 2
    assert steps_of(tmp_path / "run") == [4, 5]


def test_writing_may_take_as_long_as_it_takes(tmp_path: Path) -> None:
    """A rank is late that does not come; one that works is not."""
    assert Group(2, jobs.slow_write, str(tmp_path / "run")).values() == [2, 2]


def test_a_loop_that_rank_0_leaves_is_left_by_all(tmp_path: Path) -> None:
    said = Group(2, jobs.left_the_loop, str(tmp_path / "run")).values(30)
    assert said[0] == ""
    assert said[1].startswith("rank 0 has left the loop over run.steps()")


def test_a_save_that_fails_behind_the_training_is_told_at_one_call(tmp_path: Path) -> None:
    first, second = Group(2, jobs.failed_behind, str(tmp_path / "run")).values()
    assert [step for step, _ in first] == [step for step, _ in second]
    assert [name for _, name in first] == [name for _, name in second] == ["SaveFailedError"]
    assert steps_of(tmp_path / "run")[-1] == 19


def test_told_in_the_last_step_none_stops_alone(tmp_path: Path) -> None:
    ended = Group(2, jobs.told_at_the_end, str(tmp_path / "run")).ends()
    assert {(each.exit_code, each.value) for each in ended} in ({(0, "the end")}, {(75, None)})


def test_all_begin_from_what_rank_0_sees(tmp_path: Path) -> None:
    model = jobs.small_model()
    with holdfast.Run(tmp_path / "a", background=False, model=model) as run:
        for step in (4, 5):
            model[0].weight.data.fill_(step)
            run.save(step)
    sources = [f"{tmp_path / 'a'}@4", f"{tmp_path / 'a'}@5"]
    said = Group(2, jobs.started_elsewhere, str(tmp_path / "b"), sources).values()
    assert said == [(5, 64.0 * 4)] * 2
    missing = [str(tmp_path / "a"), str(tmp_path / "gone")]
    said = Group(2, jobs.started_elsewhere, str(tmp_path / "c"), missing).values()
    assert said == [(6, 64.0 * 5)] * 2


def test_steps_that_get_slower_are_stopped_soon(tmp_path: Path) -> None:
    group = Group(2, jobs.slower, str(tmp_path / "run"))
    wait_for(tmp_path / "run.0", tmp_path / "run.1")
    group.send(1, signal.SIGTERM)
    assert [each.exit_code for each in group.ends()] == [75, 75]
    last = holdfast.Run(tmp_path / "run").latest()
    assert last is not None
    assert last.step is not None
    assert 2000 < last.step < 2100


def test_each_loads_its_own(tmp_path: Path) -> None:
    said = Group(2, jobs.own_shares, str(tmp_path / "run")).values()
    assert said == [{"same": True, "left": ()}] * 2


def test_what_cannot_be_saved_on_one_rank_is_saved_on_none(tmp_path: Path) -> None:
    first, second = Group(2, jobs.odd_extra, str(tmp_path / "run")).values()
    assert first.startswith("RanksError: rank 1: ")
    assert second.startswith("CaptureError: ")
    assert steps_of(tmp_path / "run") == []


def test_the_one_that_keeps_the_store_waits_at_the_end(tmp_path: Path) -> None:
    group = Group(2, jobs.slow_to_end, str(tmp_path / "run"), rank_0_hosts=True)
    assert group.values() == ["the end", "the end"]


def test_nothing_keeps_the_store_of_a_process_group_that_is_destroyed(tmp_path: Path) -> None:
    for names in Group(2, jobs.destroyed, str(tmp_path / "run"), rank_0_hosts=True).values():
        assert "holdfast-alive" not in names


def test_a_loop_begun_again_is_not_stopped_by_a_former_signal(tmp_path: Path) -> None:
    for steps in Group(2, jobs.stopped_twice, str(tmp_path / "run")).values():
        assert steps == list(range(1, 30))


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("run", "other"):
        with holdfast.Run(tmp_path / name, background=False, model=jobs.small_model()) as run:
            run.save(2)
    (tmp_path / "other" / "step-00000002.pt").rename(tmp_path / "run.other")
    for said, weights in Group(2, jobs.two_of_one_name, str(tmp_path / "run")).values():
        assert "rank 1 sees another checkpoint than rank 0 under the same name" in said
        assert weights == 0


def test_notes_do_not_pile_up(tmp_path: Path) -> None:
    assert max(Group(2, jobs.keys_left, str(tmp_path / "run")).values()) <= 1
