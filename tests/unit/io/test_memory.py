"""How much memory may be taken: the least that the machine and any control group leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.io import memory

GIB = 1 << 30


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 20 GiB available, in no control group."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MOUNT", tmp_path / "mount")
    (tmp_path / "meminfo").write_text(
        f"MemTotal:  99999999 kB\nMemAvailable:   {20 * GIB >> 10} kB\nCached: 5 kB\n"
    )
    return tmp_path


def group(folder: Path, limit: object, usage: int, *, version: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = memory._VERSION_2 if version == 2 else memory._VERSION_1
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{key} {cached}\nactive_file 7\n")


def test_without_control_groups_it_is_what_the_machine_has() -> None:
    assert memory.available() == 20 * GIB


def test_where_nobody_says_it_is_not_known(system: Path) -> None:
    (system / "meminfo").unlink()
    assert memory.available() is None


@pytest.mark.parametrize(
    ("version", "line", "root"),
    [(2, "0::/jobs/one/step", "mount"), (1, "4:cpu,memory:/jobs/one/step", "mount/memory")],
)
@pytest.mark.parametrize("where", ["", "jobs", "jobs/one", "jobs/one/step"])
def test_the_limit_of_any_group_above_holds(
    system: Path, version: int, line: str, root: str, where: str
) -> None:
    (system / "cgroup").write_text(f"1:name=systemd:/other\n{line}\n")
    for folder in ("", "jobs", "jobs/one", "jobs/one/step"):
        unlimited = "max" if version == 2 else 9223372036854771712
        group(system / root / folder, unlimited, GIB, version=version)
    group(system / root / where, 8 * GIB, 6 * GIB, version=version, cached=GIB)
    assert memory.available() == 3 * GIB


def test_another_controllers_group_counts_nothing(system: Path) -> None:
    (system / "cgroup").write_text("3:cpu,cpuacct:/jobs\n2:memory:/\n")
    group(system / "mount" / "memory" / "jobs", GIB, 0, version=1)
    assert memory.available() == 20 * GIB


@pytest.mark.parametrize("path", ["/kubepods/pod1/abc", "/../../outside"])
def test_in_a_container_the_root_is_its_own_group(system: Path, path: str) -> None:
    (system / "cgroup").write_text(f"0::{path}\n")
    group(system / "mount", 2 * GIB, GIB, version=2)
    group(system, 5, 4, version=2)  # no group of its own lies outside the mount
    assert memory.available() == GIB


def test_a_group_that_is_full_leaves_next_to_nothing(system: Path) -> None:
    (system / "cgroup").write_text("0::/\n")
    group(system / "mount", GIB, GIB + 4096, version=2)
    assert memory.available() == 1
