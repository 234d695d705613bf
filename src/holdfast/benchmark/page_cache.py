"""Files in the page cache, and out of it."""

from __future__ import annotations

import os
from pathlib import Path

_CHUNK = 8 << 20
_PAGE = 4096


def warm(path: Path) -> None:
    """Read a file, so that the page cache has it."""
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def drop(path: Path) -> bool:
    """Have the system forget a file's pages; whether it has."""
    if not hasattr(os, "posix_fadvise"):
        return False
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # pages that are not written yet are not dropped
        is_gone = _is_gone(fd)
        _forget(fd)  # looking may have made the system read ahead
    finally:
        os.close(fd)
    return is_gone


def _forget(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _is_gone(fd: int) -> bool:
    """Whether the first, middle and last page cannot be had without waiting for the disk."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    last = max(0, os.fstat(fd).st_size - 1)
    for offset in (0, last // 2, last):
        _forget(fd)
        if _is_there(fd, offset - offset % _PAGE):
            return False
    return True


def _is_there(fd: int, offset: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot tell
        return True
