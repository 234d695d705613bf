"""Disks that are really full, limits, file systems that turn read-only, folders that go away.

Each fault begins in the middle of a save, when its temp is there, and ends again. The save fails
with a letter that names the cause, what was saved before is found whole, and the next save works.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.power import can_mount, disk_in
from tests.faults.states import Training, digest, tensors_of

import holdfast
from holdfast.errors import FileError, HoldfastError, NoSpaceError, SaveFailedError
from holdfast.io import commit as committing
from holdfast.io import commit_folder

pytestmark = pytest.mark.skipif(not can_mount("ext4"), reason="needs root and mkfs.ext4")


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(request, tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, not large: where it is mounted."""
    if request.param == "ext4":
        with disk_in(tmp_path, "ext4") as made:
            yield made.place
        return
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def full(disk: Path, folder: Path) -> Iterator[None]:
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    for piece in (1 << 20, 1 << 12, 1):
        with suppress(OSError):
            while os.write(fd, bytes(piece)):
                pass
    os.close(fd)
    yield
    filler.unlink()


@contextmanager
def limited(disk: Path, folder: Path) -> Iterator[None]:
    """No file of this process may be longer than a page."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(disk: Path, folder: Path) -> Iterator[None]:
    """As a file system makes itself when it finds an error; only a new mount ends it."""
    subprocess.run(["mount", "-o", "remount,abort", disk], check=True)
    yield


@contextmanager
def immutable(disk: Path, folder: Path) -> Iterator[None]:
    """Not even root may change what is in the folder."""
    subprocess.run(["chattr", "+i", folder], check=True)
    yield
    subprocess.run(["chattr", "-i", folder], check=True)


@contextmanager
def deleted(disk: Path, folder: Path) -> Iterator[None]:
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.tmp"))
    shutil.rmtree(folder)
    yield
    shutil.rmtree(folder, ignore_errors=True)
    kept.rename(folder)


@contextmanager
def replaced(disk: Path, folder: Path) -> Iterator[None]:
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.mkdir()
    yield
    shutil.rmtree(folder)
    kept.rename(folder)


@dataclass
class InTheMiddle:
    """Something that happens once, when a save has made its temp and is about to fill it."""

    happen: Callable[[], object] | None = None

    def __call__(self, *args: object) -> None:
        happen, self.happen = self.happen, None
        if happen is not None:
            happen()
        self.fill(*args)

    fill = staticmethod(committing.fill_file)


@pytest.fixture
def middle(monkeypatch: pytest.MonkeyPatch) -> InTheMiddle:
    made = InTheMiddle()
    for module in (committing, commit_folder):
        monkeypatch.setattr(module, "fill_file", made)
    return made


def save(run: holdfast.Run, training: Training, step: int) -> None:
    training.become(step)
    run.save(step, wait=True)


def check_found(folder: Path, step: int, size: str, elsewhere: Path) -> None:
    """A copy of the folder, as a training that starts now finds it."""
    copy = elsewhere / "copy"
    shutil.copytree(folder, copy)
    live = Training(size)
    with holdfast.Run(copy, keep=None, **live.parts) as run:
        assert run.resume() == step + 1
    assert digest(live.tensors()) == digest(tensors_of(step, size))
    shutil.rmtree(copy)


def fails(run: holdfast.Run, training: Training, step: int, numbers: set[int]) -> HoldfastError:
    with pytest.raises((FileError, SaveFailedError)) as caught:
        save(run, training, step)
    cause: BaseException | None = caught.value
    found = set()
    while cause is not None:
        found.add(getattr(cause, "errno", None))
        cause = cause.__cause__
    assert found & numbers
    assert caught.value.cure
    return caught.value


FAULTS = {
    full: {errno.ENOSPC},
    limited: {errno.EFBIG},
    immutable: {errno.EPERM, errno.EACCES},
    deleted: {errno.ENOENT},
    replaced: {errno.ENOENT},
}


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("background", [False, True, "overlap"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_a_save(fault, background, size, disk, middle, tmp_path) -> None:
    folder, training = disk / "run", Training(size)
    run = holdfast.Run(folder, keep=None, background=background, **training.parts)
    save(run, training, 0)
    going: list[object] = []

    def begin() -> None:
        context = fault(disk, folder)
        context.__enter__()
        going.append(context)

    middle.happen = begin
    fails(run, training, 1, FAULTS[fault])
    going[0].__exit__(None, None, None)  # type: ignore[attr-defined]
    check_found(folder, 0, size, tmp_path)
    save(run, training, 2)
    run.close()
    check_found_here(folder, 2, size)
    assert not list(folder.glob(".*.tmp"))


def check_found_here(folder: Path, step: int, size: str, *, locked: bool = False) -> None:
    live = Training(size)
    if locked:  # its writer lives: looked at without a lock
        report = holdfast.load_state(folder, **live.parts)
        assert report.step == step
    else:
        with holdfast.Run(folder, keep=None, **live.parts) as run:
            assert run.resume() == step + 1
    assert digest(live.tensors()) == digest(tensors_of(step, size))


@pytest.mark.parametrize("background", [False, True])
def test_a_file_system_that_turns_read_only(background, tmp_path, middle) -> None:
    """Nothing can be saved until it is mounted anew, and all that was saved before is there."""
    with disk_in(tmp_path, "ext4") as disk:
        folder, training = disk.place / "run", Training("small")
        run = holdfast.Run(folder, keep=None, background=background, **training.parts)
        save(run, training, 0)
        context = read_only(disk.place, folder)
        middle.happen = context.__enter__
        numbers = {errno.EROFS, errno.EIO}
        fails(run, training, 1, numbers)
        fails(run, training, 2, numbers)
        check_found_here(folder, 0, "small", locked=True)
        run.close()
        disk.unmount()
        disk.mount()
        with holdfast.Run(folder, keep=None, **training.parts) as run:
            assert run.resume() == 1
            save(run, training, 3)
        check_found_here(folder, 3, "small")


def test_a_disk_without_room_is_refused_before_anything_is_written(disk) -> None:
    training = Training("large")
    run = holdfast.Run(disk / "run", keep=None, **training.parts)
    save(run, training, 0)
    with full(disk, disk / "run"):
        training.become(1)
        with pytest.raises(NoSpaceError, match="the disk has no room for this checkpoint"):
            run.save(1)
    save(run, training, 2)
    run.close()
    check_found_here(disk / "run", 2, "large")
