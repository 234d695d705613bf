"""What the system offers for an open file, where it does: room beforehand, and direct writes.

And closing it, which is once in any case.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import logging
import os
import sys
from collections.abc import Callable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("holdfast")

#: What file systems answer that do not offer it.
REFUSED = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS))


def close(fd: int) -> None:
    """Close it once: where a signal interrupts that, Linux has closed it all the same."""
    with contextlib.suppress(InterruptedError):
        os.close(fd)


def close_read(fd: int) -> None:
    """Close what was only read: an error of closing tells of writes, of which there were none."""
    try:
        os.close(fd)
    except OSError as error:
        log.debug("closing a file that was read: %s", error)


def preallocate(fd: int, nbytes: int) -> None:
    """Give the file its length and its blocks: no write need wait for another one to extend it.

    By fallocate(2), not posix_fallocate(3): where a file system has none (NFS, FUSE), the latter
    writes a byte into each block instead, one by one, and here past the page cache.
    """
    call = _fallocate()
    while call is not None and call(fd, 0, 0, nbytes) != 0:
        error = ctypes.get_errno()
        if error in REFUSED:
            return
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))


@functools.cache
def _fallocate() -> Callable[..., int] | None:
    """The C library's, where there is one: Linux."""
    found = getattr(ctypes.CDLL(None), "fallocate", None) if sys.platform == "linux" else None
    if found is None:
        return None
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call


def set_direct(fd: int, on: bool) -> bool:
    """Whether writes go past the page cache from now on."""
    direct = getattr(os, "O_DIRECT", 0)
    if fcntl is None or not direct:
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return False
    return on
