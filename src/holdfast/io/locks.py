"""Advisory locks on open files, where the system has them.

A lock is held by the open file, so a forked child shares it: descriptors opened here are closed in
the child, without unlocking, so that a living DataLoader worker never keeps a dead parent's lock.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from holdfast.io import descriptors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_open: set[int] = set()


def open_locked(path: Path, flags: int, mode: int) -> int:
    """Open ``path`` and lock it for this process alone; where there are no locks, open it."""
    fd = os.open(path, flags, mode)
    _open.add(fd)
    try:
        try_lock(fd)
    except BaseException:
        close(fd)
        raise
    return fd


def try_lock(fd: int) -> bool:
    """Lock an open file at once; False when the system or the file system has no locks.

    Raises:
        BlockingIOError: another open file holds the lock.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # ENOLCK, EOPNOTSUPP: this file system has none
        return False
    return True


def duplicate(fd: int) -> int:
    """Another descriptor of a file opened here, which shares its lock; ``close_duplicate`` it."""
    other = os.dup(fd)
    _open.add(other)
    return other


def close_duplicate(fd: int) -> None:
    """Close it; the lock stays that of the other one."""
    _open.discard(fd)
    descriptors.close(fd)


def close(fd: int) -> None:
    """Give back the lock of a descriptor opened here, and close it."""
    _open.discard(fd)
    try:
        # A child forked this instant may still have the file open, and with it the lock.
        if fcntl is not None:
            with contextlib.suppress(OSError):  # this file system has no locks
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        descriptors.close_read(fd)  # what is written there is a note, which nobody rests on


def _forget_in_child() -> None:
    """Close without unlocking: the lock is the parent's."""
    for fd in list(_open):
        _open.discard(fd)
        os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
