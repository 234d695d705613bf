"""A folder is wholly there or not there: its files are written beside its name, which comes last.

Several processes may write into it, each its own files: the one that made it holds it, gives it
its name when all are durable, and takes it away when one has failed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from holdfast.errors import FileError
from holdfast.io import descriptors, locks, temps
from holdfast.io.commit import Fill, Head, check_room, explained, fill_file, target_of
from holdfast.io.folders import fsync_file, fsync_folder, make_folders

log = logging.getLogger("holdfast")


def commit_folder(
    path: str | os.PathLike[str], files: Sequence[tuple[str, int, Fill, Head]]
) -> None:
    """Write a folder of files, each ``(name, nbytes, fill, head)``, all or nothing and durable.

    Raises:
        NoSpaceError: the disk cannot hold it, seen before or while writing.
        FileError: something is there already, or any other refusal of the file system.
        UsageError: ``path`` cannot be the name of a folder.
    """
    with NewFolder(path, sum(nbytes for _, nbytes, _, _ in files)) as made:
        for name, nbytes, fill, head in files:
            made.add(name, nbytes, fill, head)


class NewFolder:
    """A folder of about ``nbytes`` that is written now; its block ends with the commit.

    ``temp`` is where its files are until then. An error in the block takes it all away.

    Raises:
        NoSpaceError: the disk cannot hold it, seen before or while writing.
        FileError: something is there already, or any other refusal of the file system.
        UsageError: ``path`` cannot be the name of a folder.
    """

    def __init__(self, path: str | os.PathLike[str], nbytes: int) -> None:
        self._target, self._nbytes = target_of(path), nbytes
        with explained(self._target, nbytes):
            _check_free(self._target)
            make_folders(self._target.parent)
            check_room(self._target, nbytes)
            temps.sweep(self._target)
            self.temp, self._lock = temps.create_folder(self._target)

    def add(self, name: str, nbytes: int, fill: Fill, head: Head = None) -> None:
        """Write a file of it; raises as the folder itself does."""
        with explained(self._target, self._nbytes):
            _write_new(self.temp / name, nbytes, fill, head)

    def put(self, name: str, data: bytes) -> None:
        """Write a small file of it, all at once."""
        self.add(name, len(data), lambda sink: sink(data))

    def __enter__(self) -> NewFolder:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.abandon()
            return
        with explained(self._target, self._nbytes):
            self._commit()

    def abandon(self) -> None:
        """Take it away, whatever is in it."""
        shutil.rmtree(self.temp, ignore_errors=True)
        self._unlock()
        if self.temp.exists():  # its lock is free: the next start takes it for a dead one's
            log.warning("%s could not be removed", self.temp)

    def _commit(self) -> None:
        try:
            fsync_folder(self.temp)
            self.temp.replace(self._target)
        except BaseException:
            self.abandon()
            raise
        try:
            self._unlock()  # held until it has its name
            fsync_folder(self._target.parent)
        except OSError:
            shutil.rmtree(self._target, ignore_errors=True)  # else it could not be written anew
            raise

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            locks.close(lock)


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileError(
            "a folder is written anew, and something is there already",
            errno=errno.EEXIST,
            file=target,
            cure="Choose another name, or remove it first.",
        )


def write_new(path: Path, nbytes: int, fill: Fill, *, target: Path) -> None:
    """Write a file into a folder that another process has made for ``target``; durable then.

    Raises:
        NoSpaceError: the disk is full.
        FileError: any other refusal of the file system.
    """
    with explained(target, nbytes):
        _write_new(path, nbytes, fill, None)
        fsync_folder(path.parent)


def _write_new(path: Path, nbytes: int, fill: Fill, head: Head) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    fd = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    try:
        fill_file(fd, nbytes, fill, head)
        fsync_file(fd)
    finally:
        descriptors.close(fd)
