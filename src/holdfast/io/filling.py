"""Bytes copied and checked by several threads at once, a segment each.

One thread copies and checks between 5 and 14 GiB in a second, by the machine; several disks
together write more.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence

from holdfast.io import settings
from holdfast.io.checksum import CHUNK, crc32, crc32_combine
from holdfast.io.threads import Job, Threads

#: More threads than this fill no faster than memory is.
_MOST = 4


class Copy:
    """A copy of bytes into a ``target`` of the same size, and their CRC-32."""

    def __init__(self, source: memoryview, target: memoryview) -> None:
        self._source, self.target = source, target
        self.nbytes = len(source)
        self.crc = 0

    def __call__(self) -> None:
        """Copy and check, piece by piece, so that what is checked is copied from the cache."""
        source, target = address_of(self._source), address_of(self.target)
        for start in range(0, self.nbytes, CHUNK):
            part = self._source[start : start + CHUNK]
            self.crc = crc32(part, self.crc)
            ctypes.memmove(target + start, source + start, len(part))  # without Python's lock


def make(copies: Sequence[Copy], jobs: list[Job]) -> None:
    """Make all copies, this thread the first; ``jobs`` has those that others may be at.

    Whoever breaks this off calls ``stop`` before the memory is used for something else.
    """
    jobs += [Job(copy) for copy in copies[1:]]
    threads = _threads()
    for job in jobs:
        if threads is not None:
            threads.do(job)
    copies[0]()
    for job in jobs:
        job.wait()
        if job.error is not None:
            raise job.error
    jobs.clear()


def stop(jobs: list[Job]) -> None:
    """Return when none of the jobs is being done, and let none begin any more."""
    for job in jobs:
        job.drop()
    for job in jobs:
        job.wait()


def combined(copies: Sequence[Copy], value: int) -> int:
    """The CRC-32 of all bytes, in order, going on from ``value``."""
    for copy in copies:
        value = crc32_combine(value, copy.crc, copy.nbytes)
    return value


def thread_count() -> int:
    """How many segments are filled at once, this thread's included; 1 where no other can be."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if _threads() is None else min(cores or 1, _count())


def address_of(data: memoryview) -> int:
    """Where in memory bytes begin; 0 for none."""
    import numpy as np

    return int(np.frombuffer(data, np.uint8).ctypes.data) if len(data) else 0


def _count() -> int:
    return min(settings.writer_threads(), _MOST)


@functools.cache
def _threads() -> Threads | None:
    """All but the caller; None where there are to be none, or none can be started."""
    try:
        return Threads(_count() - 1, "holdfast-fill") if _count() > 1 else None
    except RuntimeError:  # a limit of the system, or the interpreter exits
        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
