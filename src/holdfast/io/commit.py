"""A file is wholly there or not there: write beside the target, make it durable, rename.

The order is what the promise rests on: space check, exclusive temp in the same folder, bytes,
fsync of the file, rename, fsync of the folder. An error ends the attempt and removes the temp; an
fsync that failed is never tried again (the kernel may have dropped the pages it could not write).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from holdfast.errors import FileError, HoldfastError, NoSpaceError, UsageError
from holdfast.io import locks, temps
from holdfast.io.cures import FREE_SPACE, cure_of
from holdfast.io.direct import sink_of
from holdfast.io.folders import free_nbytes, fsync_file, fsync_folder, make_folders
from holdfast.io.sink import GatheringSink, Sink, write_all

log = logging.getLogger("holdfast")

Fill: TypeAlias = Callable[[Sink], None]
Head: TypeAlias = Callable[[], bytes] | None


def commit(
    path: str | os.PathLike[str],
    nbytes: int,
    fill: Fill,
    *,
    head: Head = None,
    what: str = "checkpoint",
) -> None:
    """Write ``nbytes`` to ``path`` all or nothing; durable when this returns.

    ``fill`` gets a sink that takes the bytes in order. ``head`` gives bytes that replace the
    first ones once all are written: checksums of what follows. Symbolic links are followed; what
    exists and is no regular file (a pipe, a device) is written directly. Errors say ``what`` it is.

    Raises:
        NoSpaceError: the disk cannot hold it, seen before or while writing.
        FileError: any other refusal of the file system.
        UsageError: ``path`` cannot be the name of a file.
    """
    target = target_of(path)
    with explained(target, nbytes, what):
        existing = _existing(target)
        if existing is not None and not stat.S_ISREG(existing.st_mode):
            _write_directly(target, fill, head)
            return
        make_folders(target.parent)
        check_room(target, nbytes, what)
        _commit_regular(target, existing, nbytes, fill, head)


def target_of(path: str | os.PathLike[str]) -> Path:
    """The path itself, links followed; raises UsageError where it cannot be a name."""
    name = os.fspath(path)
    if not name:
        raise UsageError(
            "the path to write to is empty", found=repr(name), cure="Give a file name: model.pt."
        )
    try:
        return Path(os.path.realpath(name))
    except ValueError as error:  # a NUL, or what the system's encoding lacks
        raise UsageError(
            "this cannot be the name of a file", found=repr(name), cure="Choose another path."
        ) from error


def _commit_regular(
    target: Path, existing: os.stat_result | None, nbytes: int, fill: Fill, head: Head
) -> None:
    temps.sweep(target)
    temp, fd = temps.create(target)
    try:
        if existing is not None:
            _take_over_permissions(fd, existing)
        fill_file(fd, nbytes, fill, head)
        fsync_file(fd)
        made = os.fstat(fd)
        replaced = _existing(target)  # another writer's, perhaps, since this began
        temp.replace(target)
    except BaseException as error:
        with _not_hiding(error):
            locks.close(fd)
        with _not_hiding(error):
            temp.unlink(missing_ok=True)
        raise
    try:
        locks.close(fd)  # the lock is held until it has its name
        fsync_folder(target.parent)
    except OSError as error:
        if replaced is not None:
            raise _not_durable(error, target) from error
        if _is(target, made):  # nothing may be there that a power cut could take away
            target.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _not_hiding(error: BaseException) -> Iterator[None]:
    """Clean up after an error, which is the one to be told."""
    try:
        yield
    except OSError as another:
        log.warning("cleaning up after %s: %s", error, another)


def _is(path: Path, made: os.stat_result) -> bool:
    """Whether a path is the file that was made, and not another writer's by now."""
    try:
        return os.path.samestat(path.lstat(), made)
    except FileNotFoundError:
        return False


def _not_durable(error: OSError, target: Path) -> FileError:
    cls = NoSpaceError if error.errno in _FULL else FileError
    return cls(
        "the new checkpoint is in place of the old one, but may not survive a power cut: "
        f"{error.strerror or error}",
        errno=error.errno,
        file=target,
        cure="Its folder could not be synced. Save again, on another disk if this one fails.",
    )


def _existing(target: Path) -> os.stat_result | None:
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise FileError(
            "a file was to be written where a folder is",
            errno=errno.EISDIR,
            file=target,
            cure=f"Give a file name inside the folder, such as {str(target / 'checkpoint.pt')!r}.",
        )
    return found


def _write_directly(target: Path, fill: Fill, head: Head) -> None:
    if head is not None:
        raise UsageError(
            "a file with checksums at its beginning is not written into a pipe or a device",
            found=str(target),
            cure="Give the name of a file.",
        )
    with target.open("wb") as file:
        sink = GatheringSink(file.write)
        fill(sink)
        sink.end()


def check_space(path: str | os.PathLike[str], nbytes: int) -> None:
    """Find out before anything is written whether the disk has room for a file.

    Raises:
        NoSpaceError: it has none.
        FileError: the file system cannot even say.
    """
    target = target_of(path)
    with explained(target, nbytes):
        check_room(target, nbytes)


def check_room(target: Path, nbytes: int, what: str = "checkpoint") -> None:
    """As ``check_space`` of what ``target_of`` gave; errors of the system come as they are."""
    free = free_nbytes(target.parent)
    if free is not None and free < nbytes:
        raise NoSpaceError(
            f"the disk has no room for this {what}; nothing was written",
            errno=errno.ENOSPC,
            file=target,
            wanted=f"{nbytes:,} bytes free",
            found=f"{free:,}",
            cure=FREE_SPACE,
        )


def _take_over_permissions(fd: int, existing: os.stat_result) -> None:
    if hasattr(os, "fchown") and os.fstat(fd)[4:6] != (existing.st_uid, existing.st_gid):
        try:
            os.fchown(fd, existing.st_uid, existing.st_gid)
        except PermissionError as error:
            log.debug("the new file keeps our owner, not that of the old one: %s", error)
    if hasattr(os, "fchmod"):
        os.fchmod(fd, stat.S_IMODE(existing.st_mode))


def fill_file(fd: int, nbytes: int, fill: Fill, head: Head) -> None:
    """Write a file that is open and empty; not yet durable."""
    with contextlib.closing(sink_of(fd, nbytes)) as sink:
        fill(sink)
        sink.end()
        if sink.written != nbytes:
            raise ValueError(f"{sink.written} bytes written where {nbytes} were planned")
    if head is not None:
        os.lseek(fd, 0, os.SEEK_SET)
        write_all(fd, head())


@contextlib.contextmanager
def explained(target: Path, nbytes: int, what: str = "checkpoint") -> Iterator[None]:
    """Turn the system's errors into letters; the original stays the cause."""
    try:
        yield
    except HoldfastError:
        raise
    except OSError as error:
        raise explain(error, target, nbytes, what=what) from error


_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def explain(
    error: OSError, target: Path, nbytes: int | None = None, *, what: str = "checkpoint"
) -> FileError:
    """The system's error while writing ``target`` as a letter, errno kept."""
    cls = NoSpaceError if error.errno in _FULL else FileError
    otherwise = "Nothing was lost: what was there before is still there."
    return cls(
        f"the {what} could not be written: {error.strerror or error}",
        errno=error.errno,
        file=target,
        wanted=None if nbytes is None or cls is FileError else f"{nbytes:,} bytes",
        cure=cure_of(error, target.parent, otherwise=otherwise),
    )
