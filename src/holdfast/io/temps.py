"""Temps: what is written before it gets its name. A lock tells the living from the dead.

A writer holds a lock on its temp as long as it lives, so a temp that can be locked is dead. Where
there are no locks the dead cannot be told from the living, and temps stay where they are.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import stat
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
        if os.fstat(fd).st_nlink > 0 or os.name == "nt":
            return temp, fd
        locks.close(fd)


def create_folder(target: Path) -> tuple[Path, int | None]:
    """Create a locked folder beside the target; without a descriptor where none can be opened."""
    while True:
        temp = _name(target)
        temp.mkdir()
        try:
            fd = _open_folder(temp)
            if fd is None or os.fstat(fd).st_nlink > 0:
                return temp, fd
            locks.close(fd)
        except (BlockingIOError, FileNotFoundError):  # a sweeper was faster
            continue
        except OSError:
            temp.rmdir()
            raise


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
        if is_dead(path) or is_dead_folder(path):
            remove(path)


def is_dead(path: Path) -> bool:
    """Whether a regular file is nobody's: its lock can be had."""
    if not stat.S_ISREG(_mode(path)):
        return False
    try:
        fd = locks.open_locked(path, os.O_RDWR | _CLOEXEC, 0)
    except OSError as error:  # held by its writer, gone by now, or not ours to open
        log.debug("%s is left alone: %s", path, error)
        return False
    return _can_lock(fd)


def is_dead_folder(path: Path) -> bool:
    """Whether a folder is nobody's: its lock can be had."""
    if not stat.S_ISDIR(_mode(path)):
        return False
    try:
        fd = _open_folder(path)
    except OSError as error:
        log.debug("%s is left alone: %s", path, error)
        return False
    return fd is not None and _can_lock(fd)


def _can_lock(fd: int) -> bool:
    try:
        return locks.try_lock(fd)
    finally:
        locks.close(fd)


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
