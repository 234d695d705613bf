"""What dead writers left in a run folder: temps that nobody holds any more, and trash.

A writer holds a lock on its temp as long as it lives, so a temp that can be locked is dead. Where
there are no locks the dead cannot be told from the living, and temps stay where they are.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from pathlib import Path

from holdfast.io import locks

log = logging.getLogger("holdfast")

#: Exactly the names that ``io.commit`` and ``io.folders.trash`` give.
_TEMP = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_TRASH = re.compile(r"\.trash-[0-9a-f]{8}-.+", re.DOTALL)


def dead_files(folder: str | Path) -> list[Path]:
    """The temps and trash of dead writers in a folder, sorted by name; none without a folder.

    Trash counts as dead: only the holder of the run's lock makes it, so call this holding it.
    """
    try:
        paths = sorted(Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if _TRASH.fullmatch(path.name) or _is_dead_temp(path)]


def sweep(folder: str | Path) -> list[Path]:
    """Remove what dead writers left, and say so in the log; the paths removed."""
    removed = []
    for path in dead_files(folder):
        try:
            _remove(path)
        except OSError as error:
            log.warning("%s: a dead writer's leftover cannot be removed: %s", path, error)
        else:
            log.info("removed %s, left by a writer that died", path)
            removed.append(path)
    return removed


def _is_dead_temp(path: Path) -> bool:
    if not _TEMP.fullmatch(path.name) or not _is_regular(path):
        return False
    try:
        fd = locks.open_locked(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0)
    except OSError as error:  # held by its writer, gone by now, or not ours to open
        log.debug("%s is left alone: %s", path, error)
        return False
    try:
        return locks.try_lock(fd)
    finally:
        locks.close(fd)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
