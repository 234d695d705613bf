"""Ways in which the commit could be wrong: the harness has to find each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.io import commit, direct, folders, sink
from holdfast.runs import pins
from holdfast.saving import writing


def _no_fsync_of_the_folder() -> None:
    commit.fsync_folder = folders.fsync_folder = lambda folder: None


def _no_fsync_of_the_file() -> None:
    commit.fsync_file = lambda fd: None


def _rename_before_fsync() -> None:
    """The name first, and the bytes made durable when it is there."""
    fsync, waiting = commit.fsync_file, list[int]()
    replace = Path.replace

    def later(fd: int) -> None:
        waiting.append(fd)

    def renamed(self: Path, target: Any) -> Path:
        found = replace(self, target)
        while waiting:
            fsync(waiting.pop())
        return found

    commit.fsync_file = later
    Path.replace = renamed  # type: ignore[method-assign]


def _prune_before_rename() -> None:
    """The old checkpoint makes room for the new one before that is there."""
    save_file = writing.save_file

    def saved(path: str, *args: Any, **options: Any) -> Any:
        for old in sorted(Path(path).parent.glob("step-*.pt"))[:-1] or []:
            old.unlink()
        for old in Path(path).parent.glob("step-*.pt"):
            old.unlink()
        return save_file(path, *args, **options)

    writing.save_file = saved  # type: ignore[assignment]


def _swallow_an_error_of_fsync() -> None:
    fsync = commit.fsync_file

    def quiet(fd: int) -> None:
        try:
            fsync(fd)
        except OSError:
            return

    commit.fsync_file = quiet


def _swallow_an_error_of_write() -> None:
    direct.SegmentSink._check = lambda self: None  # type: ignore[method-assign]


def _retry_fsync() -> None:
    fsync = commit.fsync_file

    def again(fd: int) -> None:
        try:
            fsync(fd)
        except OSError:
            fsync(fd)

    commit.fsync_file = again


def _name_in_spite_of_fsync() -> None:
    """The error is told, and the file has its name all the same."""
    fsync, replace = commit.fsync_file, Path.replace
    commit.fsync_file = lambda fd: None

    def renamed(self: Path, target: Any) -> Path:
        fd = os.open(self, os.O_RDWR)
        try:
            fsync(fd)
        finally:
            os.close(fd)
            found = replace(self, target)
        return found

    Path.replace = renamed  # type: ignore[method-assign]


def _swallow_an_error_of_opening_the_folder() -> None:
    fsync_folder = commit.fsync_folder

    def quiet(folder: Path) -> None:
        try:
            fsync_folder(folder)
        except OSError:
            return

    commit.fsync_folder = quiet


def _prune_too_much() -> None:
    """Everything but the newest, pinned or not."""
    prune = writing.RunWriter._prune

    def all_of_them(self: Any, *args: Any) -> Any:
        found = prune(self, *args)
        for old in sorted(self.folder.glob("step-*.pt"))[:-1]:
            old.unlink()
        return found

    writing.RunWriter._prune = all_of_them  # type: ignore[method-assign]


def _prune_without_fsync() -> None:
    folders.fsync_folder = lambda folder: None


def _pin_without_fsync() -> None:
    pins.fsync_folder = lambda folder: None


def _end_at_a_short_write() -> None:
    def once(fd: int, data: Any) -> None:
        os.write(fd, data)

    commit.write_all = sink.write_all = direct.write_all = once


def _write_in_place() -> None:
    """Over the old file, without a temp."""

    def written(target: Path, existing: Any, nbytes: int, fill: Any, head: Any) -> None:
        with target.open("wb") as file:
            commit.fill_file(file.fileno(), nbytes, fill, head)
            commit.fsync_file(file.fileno())
        commit.fsync_folder(target.parent)

    commit._commit_regular = written


MUTANTS: dict[str, Callable[[], None]] = {
    "no fsync of the folder": _no_fsync_of_the_folder,
    "no fsync of the file": _no_fsync_of_the_file,
    "rename before fsync": _rename_before_fsync,
    "prune before rename": _prune_before_rename,
    "swallow an error of fsync": _swallow_an_error_of_fsync,
    "swallow an error of write": _swallow_an_error_of_write,
    "try fsync again": _retry_fsync,
    "name in spite of a failed fsync": _name_in_spite_of_fsync,
    "swallow an error of opening the folder": _swallow_an_error_of_opening_the_folder,
    "prune too much": _prune_too_much,
    "prune without fsync": _prune_without_fsync,
    "pin without fsync": _pin_without_fsync,
    "end at a short write": _end_at_a_short_write,
    "write in place": _write_in_place,
}


def apply(name: str | None) -> None:
    """Make the commit of this process wrong in that way."""
    if name is not None:
        MUTANTS[name]()
