from __future__ import annotations

import errno

import pytest
from benchmark_samples import tiny

from holdfast.benchmark import room
from holdfast.benchmark.machine import describe, file_system
from holdfast.benchmark.savers import DONE, InFlight, Saver
from holdfast.benchmark.stepping import step_rows
from holdfast.errors import NoSpaceError, UsageError


def test_workloads_come_in_the_order_of_the_report(tmp_path) -> None:
    everything = ["large", "larger", "adam", "many", "iris"]
    assert room.check_room(tmp_path, (), 1, is_quick=True) == everything
    assert room.check_room(tmp_path, ("iris", "large"), 1, is_quick=True) == ["large", "iris"]


def test_a_disk_without_room(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "free_nbytes", lambda folder: 1000)
    with pytest.raises(NoSpaceError) as caught:
        room.check_room(tmp_path, ("large",), 5, is_quick=False)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == (
        "the disk has no room for this benchmark; nothing was written\n"
        f"  in {tmp_path}\n"
        "  wanted 2,214,592,512 bytes free, found 1,000\n"
        "  Give another folder, fewer workloads (--only iris), or small ones (--quick)."
    )


@pytest.mark.parametrize(
    ("folder", "only", "repeat", "message"),
    [
        ("nowhere", (), 5, "the benchmark needs a folder that is there"),
        (".", ("huge",), 5, "there is no such workload"),
        (".", (), 0, "the benchmark takes at least one round"),
    ],
)
def test_wrong_use(folder, only, repeat, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        room.check_room(tmp_path / folder, only, repeat, is_quick=True)


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /data rw,nosuid shared:2 - tmpfs tmpfs rw
24 22 0:6 / /data/deep/er rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"), [("/home", "ext4"), ("/data/deep", "tmpfs"), ("/data/deep/er/x", "xfs")]
)
def test_the_file_system_is_that_of_the_nearest_mount(folder, kind, tmp_path) -> None:
    assert file_system(tmp_path.__class__(folder), MOUNTS) == kind


def test_a_machine_says_what_it_is(tmp_path) -> None:
    machine = describe(tmp_path)
    assert machine.cpu
    assert machine.cores >= 1
    assert {"holdfast", "torch"} <= set(machine.versions)


class During(Saver):
    """In flight for two steps of each save."""

    name = "during"

    def begin(self, workload, path):
        path.touch()
        looks = iter([False, False, True])
        return InFlight(lambda: next(looks), lambda: None)


class Never(Saver):
    name = "never"

    def begin(self, workload, path):
        path.touch()
        return DONE


def test_steps_are_counted_while_a_save_runs_and_while_none_does(tmp_path) -> None:
    rows = step_rows([During(), Never()], tiny(), tmp_path, 2, least=3)
    assert [row.name for row in rows] == ["during"], "saves that are over at once have no row"
    assert (rows[0].during.count, rows[0].without.count) == (4, 6)
    assert not list(tmp_path.iterdir())
