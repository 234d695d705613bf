"""Folders made durable: a name survives a power cut only when its folder was synced."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.io import descriptors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: What systems answer that cannot sync a folder (Windows, some network file systems).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def fsync_file(fd: int) -> None:
    """Make a file's bytes durable; on macOS through the drive's own cache (F_FULLFSYNC)."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can do that at all."""
    if os.name == "nt":  # a folder cannot be opened there; the rename is what there is
        return
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | os.O_CLOEXEC)
    try:
        fsync_file(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        descriptors.close(fd)


def free_nbytes(folder: Path) -> int | None:
    """Bytes that this user can still write in a folder; None where the file system counts none."""
    if not hasattr(os, "statvfs"):
        return None
    space = os.statvfs(folder)
    if space.f_blocks == 0:  # such as /proc and some network file systems
        return None
    blocks = space.f_bfree if getattr(os, "geteuid", lambda: 1)() == 0 else space.f_bavail
    return blocks * space.f_frsize


def make_folders(folder: Path) -> None:
    """Create a folder and its parents; each one's name is made durable in its parent."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    try:
        fsync_folder(folder.parent)
    except OSError:
        with contextlib.suppress(OSError):  # the next try shall make it anew, and sync its name
            folder.rmdir()
        raise


def trash(
    paths: Sequence[Path], *, is_kept: Callable[[Path], bool] = lambda _: False
) -> list[Path]:
    """Remove files and folders of one folder, none ever half gone; those that were removed.

    Each is renamed to ``.trash-...``, the folder is synced, and only then are they unlinked: after
    a power cut in the middle a checkpoint is either whole under its name or no checkpoint any more.
    What ``is_kept`` says of a path is asked before it is renamed and again after: then it gets its
    name back. Who makes it so, and then still finds the file, can rest on it.
    """
    doomed, removed = [], []
    for path in paths:
        if is_kept(path):
            continue
        # A name may have 255 bytes, and this one is longer than the checkpoint's.
        name = os.fsdecode(os.fsencode(path.name)[:230])
        target = path.with_name(f".trash-{secrets.token_hex(4)}-{name}")
        path.rename(target)
        if is_kept(path):
            target.rename(path)
            continue
        doomed.append(target)
        removed.append(path)
    for folder in {path.parent for path in doomed}:
        fsync_folder(folder)
    for path in doomed:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return removed
