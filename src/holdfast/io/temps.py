"""Temps: what is written before it gets its name. A lock tells the living from the dead.

A writer holds a lock on its temp as long as it lives, so a temp that can be locked is dead. Where
there are no locks the dead cannot be told from the living, and temps stay where they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast.io import locks

log = logging.getLogger("holdfast")

#: Exactly the names that are given here.
NAME = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def create(target: Path) -> tuple[Path, int]:
    """Create an exclusive, locked file beside the target; its path and its descriptor.

    Between creating and locking it, another process that sweeps the folder may take it for dead.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC | getattr(os, "O_BINARY", 0)
    while True:
        temp = _name(target)
        try:
            fd = locks.open_locked(temp, flags, 0o666)
        except BlockingIOError:  # the sweeper holds it, and removes it
            continue
        if _keeps(temp, fd, temp.unlink):
            return temp, fd


def create_folder(target: Path) -> tuple[Path, int | None]:
    """Create a locked folder beside the target; without a descriptor where none can be opened."""
    while True:
        temp = _name(target)
        temp.mkdir()
        try:
            fd = _open_folder(temp)
        except (BlockingIOError, FileNotFoundError):  # a sweeper was faster
            continue
        except OSError:
            with contextlib.suppress(OSError):
                temp.rmdir()
            raise
        if fd is None or _keeps(temp, fd, temp.rmdir):
            return temp, fd


def _keeps(path: Path, fd: int, remove: Callable[[], object]) -> bool:
    """Whether what was made is still there; closed where a sweeper has taken it away.

    Raises:
        OSError: it cannot be looked at; it is closed and removed.
    """
    if os.name == "nt":  # what is open cannot be taken away there
        return True
    try:
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return True
    except FileNotFoundError:
        log.debug("%s was taken away", path)
    except OSError:
        locks.close(fd)
        with contextlib.suppress(OSError):
            remove()
        raise
    locks.close(fd)
    return False


def _name(target: Path) -> Path:
    return target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.tmp")


def _prefix(target: Path) -> str:
    """A name may have 255 bytes; the temp's is longer than the target's."""
    return f".{os.fsdecode(os.fsencode(target.name)[:230])}."


def _open_folder(path: Path) -> int | None:
    if os.name == "nt":
        return None
    return locks.open_locked(path, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC, 0)


def sweep(target: Path) -> None:
    """Remove what writers of the same target left when they were killed, and say so in the log."""
    prefix = _prefix(target)
    try:
        with os.scandir(target.parent) as found:
            names = [entry.name for entry in found if entry.name.startswith(prefix)]
    except OSError as error:  # who may not list a folder may write into it all the same
        log.debug("%s cannot be swept: %s", target.parent, error)
        return
    temps = (name for name in names if NAME.fullmatch(name) and len(name) == len(prefix) + 12)
    for path in map(target.with_name, temps):
        remove_dead(path)


def is_dead(path: Path) -> bool:
    """Whether a file or a folder is nobody's: its lock can be had."""
    with _held(path) as is_held:
        return is_held


def remove_dead(path: Path) -> bool:
    """Remove a file or a folder that is nobody's; whether it is gone.

    Its lock is held meanwhile: whoever has just made it waits for that, and finds it gone.
    """
    with _held(path) as is_held:
        return is_held and remove(path)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold the lock of a temp for the block; False where it is somebody's, or has none."""
    fd = _locked(path)
    try:
        yield fd is not None and locks.try_lock(fd)
    finally:
        if fd is not None:
            locks.close(fd)


def _locked(path: Path) -> int | None:
    mode = _mode(path)
    try:
        if stat.S_ISREG(mode):
            return locks.open_locked(path, os.O_RDWR | _CLOEXEC, 0)
        return _open_folder(path) if stat.S_ISDIR(mode) else None
    except OSError as error:  # held by its writer, gone by now, or not ours to open
        log.debug("%s is left alone: %s", path, error)
        return None


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def remove(path: Path) -> bool:
    """Remove what a dead writer left, and say so; False, and a warning, where that is refused."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: a dead writer's leftover cannot be removed: %s", path, error)
        return False
    log.info("removed %s, left by a writer that died", path)
    return True
