"""Bytes in order into an open file: through the page cache, or past it.

Writing past the page cache (O_DIRECT) saves the kernel a copy of everything and the fsync the wait
for it. It asks for aligned memory, offsets and lengths, so bytes are gathered in aligned segments
which threads write while the next one fills. Where a file system refuses, the same segments go
through the page cache.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import queue
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from holdfast.io import locks, settings
from holdfast.io.arena import PAGE, SEGMENT, segments
from holdfast.io.threads import Job, Threads

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("holdfast")

Buffer: TypeAlias = bytes | bytearray | memoryview

#: Small pieces are gathered up to this many bytes before they go to the system.
GATHER_NBYTES = 1 << 20
#: No single write is longer, so that Linux never shortens it (it stops at 2 GiB).
WRITE_NBYTES = 1 << 30
#: Files from this size on are written past the page cache.
DIRECT_FROM = 4 << 20

_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


class Sink(ABC):
    """Takes the bytes of a file in order."""

    def __init__(self) -> None:
        self.written = 0

    @property
    def flushed(self) -> int:
        """How many bytes the system has."""
        return self.written

    def __call__(self, data: Buffer) -> None:
        """Take bytes; the memory may change when this returns."""
        self.written += len(data)
        self._take(data)

    def lasting(self, data: memoryview) -> None:
        """Take bytes whose memory stays as it is until ``end``: they need not be copied."""
        self(data)

    @abstractmethod
    def _take(self, data: Buffer) -> None: ...

    @abstractmethod
    def end(self) -> None:
        """Return when the system has all bytes (not yet durable).

        Raises:
            OSError: it refused some.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; after this nothing is written any more."""


class GatheringSink(Sink):
    """Through any function that takes bytes, small pieces gathered."""

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        super().__init__()
        self._write = write
        self._gathered = bytearray()

    def _take(self, data: Buffer) -> None:
        if len(self._gathered) + len(data) > GATHER_NBYTES:
            self.end()
        if len(data) >= GATHER_NBYTES:
            self._write(data)
        else:
            self._gathered.extend(data)

    def end(self) -> None:
        """Hand on what is gathered."""
        self._write(self._gathered)
        self._gathered.clear()

    def close(self) -> None:
        """Drop what is gathered."""
        self._gathered.clear()


class SegmentSink(Sink):
    """Segments written by threads, past the page cache where the file system allows it."""

    def __init__(self, fd: int, nbytes: int) -> None:
        super().__init__()
        preallocate(fd, nbytes)
        # Of its own: should an interruption keep ``close`` from waiting for the threads, they must
        # not find another file under the number.
        self._fd = locks.duplicate(fd)
        self._is_stopped = False
        self._is_direct = True
        self._segment: memoryview | None = None
        self._filled = 0
        self._at = 0
        self._jobs: list[Job] = []
        self._errors: list[BaseException] = []
        self._flushed: list[int] = []  # what each thread has written: += is not atomic
        self._tickets: queue.SimpleQueue[bool] = queue.SimpleQueue()
        for _ in range(settings.segment_count()):
            self._tickets.put(True)

    @property
    def flushed(self) -> int:
        """How many bytes the system has."""
        return sum(self._flushed)

    def _take(self, data: Buffer) -> None:
        with memoryview(data) as view:
            start = 0
            while start < len(view):
                if self._segment is None:
                    self._tickets.get()
                    self._check()
                    self._segment = segments.take()
                room = SEGMENT - self._filled
                part = view[start : start + room]
                self._segment[self._filled : self._filled + len(part)] = part
                self._filled += len(part)
                start += len(part)
                if self._filled == SEGMENT:
                    self._hand_over()

    def lasting(self, data: memoryview) -> None:
        """Take bytes whose memory stays: whole segments of it, where aligned, go as they are."""
        whole = 0
        if self._filled == 0 and _address(data) % PAGE == 0:
            whole = len(data) - len(data) % SEGMENT
            for start in range(0, whole, SEGMENT):
                self._submit(data[start : start + SEGMENT], gives_back=False)
            self.written += whole
        self(data[whole:])

    def _hand_over(self) -> None:
        assert self._segment is not None
        segment, self._segment, self._filled = self._segment, None, 0
        self._submit(segment, gives_back=True)

    def _submit(self, data: memoryview, *, gives_back: bool) -> None:
        self._jobs.append(_threads().submit(partial(self._write, data, self._at, gives_back)))
        self._at += len(data)

    def _write(self, data: memoryview, at: int, gives_back: bool) -> None:
        try:
            if not (self._errors or self._is_stopped):
                self._write_at(data, at)
                self._flushed.append(len(data))
        except BaseException as error:  # the thread that fills the segments raises it
            self._errors.append(error)
        finally:
            if gives_back:
                segments.give_back(data)
                self._tickets.put(True)

    def _write_at(self, data: memoryview, at: int) -> None:
        done = 0
        while done < len(data):
            was_direct = self._is_direct
            try:
                done += os.pwrite(self._fd, data[done:], at + done)
            except OSError as error:
                if not (was_direct and error.errno in _REFUSED):
                    raise
                self._is_direct = _set_direct(self._fd, False)  # a refusal only when it is tried

    def _check(self) -> None:
        if self._errors:
            raise self._errors[0]

    def end(self) -> None:
        """Write what is left, less than a segment, and wait for the threads."""
        aligned = self._filled - self._filled % PAGE
        if self._segment is not None:
            self._write_at(self._segment[:aligned], self._at)
        self._wait()
        self._check()
        self._is_direct = _set_direct(self._fd, False)
        if self._segment is not None:
            self._write_at(self._segment[aligned : self._filled], self._at + aligned)

    def close(self) -> None:
        """Let the threads write no more, wait for them, and give the memory back."""
        self._is_stopped = True
        self._wait()
        if self._fd >= 0:
            locks.close_duplicate(self._fd)
            self._fd = -1
        if self._segment is not None:
            segments.give_back(self._segment)
            self._segment = None

    def _wait(self) -> None:
        for job in self._jobs:
            job.wait()


def sink_of(fd: int, nbytes: int) -> Sink:
    """The sink that suits a new, empty file of ``nbytes``."""
    is_large = nbytes >= DIRECT_FROM and settings.writer_threads() > 0
    if is_large and hasattr(os, "pwrite") and start_threads() and _set_direct(fd, True):
        return SegmentSink(fd, nbytes)
    return GatheringSink(partial(write_all, fd))


def write_all(fd: int, data: Buffer) -> None:
    """Write all of ``data`` at the descriptor's position, however short single writes are."""
    with memoryview(data) as view:
        at = 0
        while at < len(view):
            at += os.write(fd, view[at : at + WRITE_NBYTES])


def preallocate(fd: int, nbytes: int) -> None:
    """Give the file its length and its blocks: no write need wait for another one to extend it.

    By fallocate(2), not posix_fallocate(3): where a file system has none (NFS, FUSE), the latter
    writes a byte into each block instead, one by one, and here past the page cache.
    """
    call = _fallocate()
    while call is not None and call(fd, 0, 0, nbytes) != 0:
        error = ctypes.get_errno()
        if error in _REFUSED:
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


def _set_direct(fd: int, on: bool) -> bool:
    """Whether writes go past the page cache from now on."""
    direct = getattr(os, "O_DIRECT", 0)
    if fcntl is None or not direct:
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False
    return on


def _address(data: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(data, np.uint8).ctypes.data) if len(data) else 0


@functools.cache
def _threads() -> Threads:
    return Threads(settings.writer_threads(), "holdfast-write")


def start_threads() -> bool:
    """Start the threads that write, if they are not there; False where the system refuses.

    Once the interpreter has begun to exit none can be started: they must be there before.
    """
    try:
        _threads()
    except RuntimeError as error:
        _warn(f"no thread can be started to write with: {error}")
        return False
    return True


@functools.cache
def _warn(text: str) -> None:
    """Once: each save would say the same."""
    log.warning("%s", text)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
