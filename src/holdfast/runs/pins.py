"""Pins: an empty ``step-….pin`` beside a checkpoint keeps it from ever being pruned."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from holdfast.errors import FileError, NoCheckpointError
from holdfast.io import descriptors
from holdfast.io.cures import cure_of
from holdfast.io.folders import fsync_folder
from holdfast.runs.naming import pin_name


def pin_of(path: Path) -> Path:
    """The path of a checkpoint's pin, whether or not it is there."""
    return path.with_name(pin_name(path.name))


def is_pinned(path: Path) -> bool:
    """Whether a checkpoint is pinned; raises OSError where that cannot be said."""
    try:
        pin_of(path).lstat()
    except FileNotFoundError:
        return False
    return True


def pin(path: Path) -> None:
    """Pin a checkpoint, durably; one that is pinned stays so.

    Raises:
        NoCheckpointError: there is no such checkpoint.
        FileError: the pin cannot be written.
    """
    is_new = False
    try:
        path.lstat()
        # An empty file has no bytes to sync: its name in the folder is all there is. One that was
        # there may be of a process that was killed before it synced the folder.
        is_new = _touch(pin_of(path))
        fsync_folder(path.parent)
        path.lstat()  # who prunes looks for the pin after it has taken the name away
    except FileNotFoundError as error:
        if is_new:
            with contextlib.suppress(OSError):
                pin_of(path).unlink()
        raise NoCheckpointError("there is no such checkpoint to pin", file=path) from error
    except OSError as error:
        if is_new:  # the next try shall make it anew, and sync what it made
            with contextlib.suppress(OSError):
                pin_of(path).unlink()
        raise _refused("pinned", path, error) from error


def unpin(path: Path) -> None:
    """Remove a checkpoint's pin, durably; where there is none, that is so.

    Raises:
        FileError: the pin cannot be removed.
    """
    try:
        pin_of(path).unlink(missing_ok=True)
        fsync_folder(path.parent)  # one that is gone may be gone in memory alone
    except OSError as error:
        raise _refused("unpinned", path, error) from error


def _touch(path: Path) -> bool:
    """Make an empty file; False where there is one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    descriptors.close(fd)
    return True


def _refused(verb: str, path: Path, error: OSError) -> FileError:
    otherwise = "Check who owns the folder and its permissions: ls -ld {folder}"
    return FileError(
        f"the checkpoint could not be {verb}: {error.strerror or error}",
        errno=error.errno,
        file=path,
        cure=cure_of(error, path.parent, otherwise=otherwise),
    )
