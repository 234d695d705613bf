"""Pins: an empty ``step-….pin`` beside a checkpoint keeps it from ever being pruned."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.errors import FileError, NoCheckpointError
from holdfast.io.cures import cure_of
from holdfast.io.folders import fsync_folder
from holdfast.runs.naming import pin_name


def pin_of(path: Path) -> Path:
    """The path of a checkpoint's pin, whether or not it is there."""
    return path.with_name(pin_name(path.name))


def is_pinned(path: Path) -> bool:
    """Whether a checkpoint is pinned."""
    return os.path.lexists(pin_of(path))


def pin(path: Path) -> None:
    """Pin a checkpoint, durably; one that is pinned stays so.

    Raises:
        NoCheckpointError: there is no such checkpoint.
        FileError: the pin cannot be written.
    """
    if not os.path.lexists(path):
        raise NoCheckpointError("there is no such checkpoint to pin", file=path)
    if is_pinned(path):
        return
    try:
        # An empty file has no bytes to sync: its name in the folder is all there is.
        pin_of(path).touch()
        fsync_folder(path.parent)
    except OSError as error:
        raise _refused("pinned", path, error) from error


def unpin(path: Path) -> None:
    """Remove a checkpoint's pin, durably; nothing happens where there is none.

    Raises:
        FileError: the pin cannot be removed.
    """
    if not is_pinned(path):
        return
    try:
        pin_of(path).unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise _refused("unpinned", path, error) from error


def _refused(verb: str, path: Path, error: OSError) -> FileError:
    otherwise = "Check who owns the folder and its permissions: ls -ld {folder}"
    return FileError(
        f"the checkpoint could not be {verb}: {error.strerror or error}",
        errno=error.errno,
        file=path,
        cure=cure_of(error, path.parent, otherwise=otherwise),
    )
