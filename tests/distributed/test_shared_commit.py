"""A folder that all ranks write is whole, or it is not there: whoever fails, or is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shard_jobs as jobs
import torch
from ranks import Group

import holdfast
from holdfast.errors import RanksError, SaveFailedError

#: How often a rank is killed, in all.
KILLS = 30


@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("background", [True, False])
def test_pain_04_a_disk_that_is_full_on_one_rank(on: int, background: bool, tmp_path: Path) -> None:
    """pytorch #191391: a full disk in a writer's thread, and the checkpoint was committed."""
    said = Group(2, jobs.save_on_a_small_disk, str(tmp_path / "run"), on, background).values()
    for rank, (text, *left) in enumerate(said):
        kind = "NoSpaceError: " if rank == on else f"RanksError: rank {on}: "
        assert text.startswith(f"{kind}the checkpoint could not be written: File too large"), text
        assert left == [".lock", "step-00000000"]
    assert holdfast.verify(tmp_path / "run" / "step-00000001").status == "good"


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("background", [True, False])
def test_a_rank_that_is_killed_at_any_moment(size: int, background: bool, tmp_path: Path) -> None:
    """Always the checkpoint before or the new one, whole; and the next start goes on from it."""
    chance = random.Random(f"{size} {background}")
    run, newest = tmp_path / "run", -1
    for number in range(KILLS // 4 + 1):
        group = Group(size, jobs.save_until_killed, str(run), background)
        wait_for_steps(run, newest + 2)
        time.sleep(chance.uniform(0, 0.15))
        killed = chance.randrange(size)
        began = time.monotonic()
        group.send(killed, signal.SIGKILL)
        for rank, ended in enumerate(group.ends(60)):
            if rank == killed:
                assert ended.exit_code == -signal.SIGKILL
            else:
                assert isinstance(ended.error, (RanksError, SaveFailedError)), (number, ended.trace)
        assert time.monotonic() - began < 20
        newest = check(run, newest)


def wait_for_steps(run: Path, step: int) -> None:
    until = time.monotonic() + 60
    while not any(int(path.name[5:]) >= step for path in run.glob("step-*")):
        assert time.monotonic() < until
        time.sleep(0.005)


def check(run: Path, before: int) -> int:
    """All that bears a name is whole, and each element is of its step; the newest step."""
    steps = []
    for path in run.glob("step-*"):
        step = int(path.name[5:])
        assert holdfast.verify(path).status == "good"
        with holdfast.open(path) as checkpoint:
            assert checkpoint.record is not None
            assert checkpoint.record.step == step
            for name in ("model.0.weight", "model.1.weight"):
                assert bool((torch.as_tensor(checkpoint.array(name)) == step).all())
        steps.append(step)
    assert max(steps) > before
    return max(steps)


def test_the_training_goes_on_meanwhile(tmp_path: Path) -> None:
    for seen in Group(2, jobs.save_for_a_while, str(tmp_path / "run")).values():
        assert seen == [2.0 * number for number in range(20)]
    assert holdfast.verify(tmp_path / "run").status == "good"


def test_a_save_on_rank_0_alone(tmp_path: Path) -> None:
    first, _ = Group(2, jobs.save_on_some, str(tmp_path / "run")).values()
    assert first.startswith("rank 1 did not call run.save(step=0) within 1 seconds")
    assert "without `if rank == 0:`" in first


def test_ranks_with_other_tensors(tmp_path: Path) -> None:
    for text in Group(2, jobs.save_other_parts, str(tmp_path / "run")).values():
        assert "rank 1 has other tensors than rank 0 to be saved" in text
        assert "wanted 2 of them" in text
        assert "found 4" in text


def test_a_folder_that_is_not_seen_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    """What rank 0 has made is not there for this one: a network file system that lags behind."""
    from holdfast.distributed import folders

    class Alone:
        rank, size, leads = 1, 2, False

        def __init__(self) -> None:
            self.told: dict[str, Any] = {}

        def tell(self, key: str, value: Any) -> None:
            self.told[key] = value

        def is_told(self, key: str) -> bool:
            return key in self.told

    monkeypatch.setattr(folders, "_TO_BE_SEEN", 0.1)
    ranks: Any = Alone()
    shared = folders.SharedFolder(ranks, "abc")
    with pytest.raises(RanksError) as caught:
        shared.write(tmp_path / "none", tmp_path / "step-00000001", 10, lambda sink: None, [])
    assert "rank 1 sees no folder that rank 0 has made to write into" in str(caught.value)
    assert "A network file system may need a moment" in str(caught.value)
    assert set(ranks.told) == {"failed/abc", "wrote/abc/1"}
    assert ranks.told["wrote/abc/1"] is None


def test_pain_06_one_rank_renames(tmp_path: Path) -> None:
    """transformers #27925, #28364: every rank renamed the folder, and all but one failed."""
    first, *others = Group(4, jobs.count_renames, str(tmp_path / "run"), 5).values()
    assert first == [f"step-0000000{step}" for step in range(5)]
    assert others == [[], [], []]


def test_a_save_makes_no_collective_and_leaves_no_notes(tmp_path: Path) -> None:
    for collectives, left in Group(2, jobs.save_without_collectives, str(tmp_path)).values():
        assert collectives == 0
        assert left == 0


def test_what_has_no_elements_yet_is_refused(tmp_path: Path) -> None:
    for text in Group(2, jobs.save_addends, str(tmp_path / "run")).values():
        assert text.startswith(
            "a tensor whose processes have addends, and no elements yet, at 'model.weight'"
        )
        assert "redistribute" in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("is_new", [True, False])
def test_saves_go_on_when_a_full_disk_has_room_again(is_new: bool, small_disk: Path) -> None:
    """What the ranks know of each other's shares is right after a save that came to nothing."""
    run = small_disk / "run"
    for rank, (text,) in enumerate(Group(2, jobs.save_on_a_full_disk, str(run), is_new).values()):
        assert text.startswith("NoSpaceError: " if rank == 0 else "RanksError: rank 0: ")
        assert "the disk has no room for this checkpoint; nothing was written" in text
    steps = [2, 3] if is_new else [0, 2, 3]
    assert sorted(path.name for path in run.glob("step-*")) == [f"step-{n:08d}" for n in steps]
    for step in steps:
        assert holdfast.verify(run / f"step-{step:08d}").status == "good"


def test_a_step_that_is_saved_already_comes_first(tmp_path: Path) -> None:
    assert Group(2, jobs.save_twice_the_same, str(tmp_path / "run")).values() == [4, 4]


def test_what_is_not_spread_is_rank_0s_and_what_is_empty_is_whole(tmp_path: Path) -> None:
    for seen in Group(3, jobs.save_odd, str(tmp_path / "run")).values():
        assert seen == [0.0]


@pytest.mark.parametrize("where", ["part", "extra"])
def test_shares_that_are_in_no_module_are_refused(where: str, tmp_path: Path) -> None:
    for text in Group(2, jobs.keep_an_average, str(tmp_path / "run"), where).values():
        assert text.startswith("a tensor that is spread over processes, at '")
        assert "Keep an average of a model as a module" in text
