"""Bytes past the page cache, where they are many.

Writing past the page cache (O_DIRECT) saves the kernel a copy of everything and the fsync the wait
for it. It asks for aligned memory, offsets and lengths, so bytes are gathered in aligned segments
which threads write while the next ones fill. Where a file system refuses, the same segments go
through the page cache.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
from functools import partial

from holdfast.io import filling, locks, settings
from holdfast.io.arena import PAGE, SEGMENT, segments
from holdfast.io.descriptors import REFUSED, preallocate, set_direct
from holdfast.io.filling import Copy, address_of
from holdfast.io.sink import Buffer, GatheringSink, Sink, some, write_all
from holdfast.io.threads import Job, Threads

log = logging.getLogger("holdfast")

#: Files from this size on are written past the page cache.
DIRECT_FROM = 4 << 20


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
        self._filling: list[memoryview] = []  # by several threads at once
        self._copying: list[Job] = []
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
                    self._segment = self._free_segment()
                room = SEGMENT - self._filled
                part = view[start : start + room]
                self._segment[self._filled : self._filled + len(part)] = part
                self._filled += len(part)
                start += len(part)
                if self._filled == SEGMENT:
                    self._hand_over()

    def _free_segment(self) -> memoryview:
        self._tickets.get()
        self._check()
        return segments.take()

    def checked(self, data: memoryview, value: int = 0) -> int:
        """Whole segments are copied and checked by several threads, while the disk is faster."""
        first = min(-self._filled % SEGMENT, len(data))
        value = super().checked(data[:first], value)
        rest = data[first:]
        while len(rest) >= 2 * SEGMENT:
            copies = [
                Copy(rest[number * SEGMENT : (number + 1) * SEGMENT], segment)
                for number, segment in enumerate(self._free_segments(len(rest) // SEGMENT))
            ]
            filling.make(copies, self._copying)
            value = filling.combined(copies, value)
            for copy in copies:
                self._filling.remove(copy.target)
                self._submit(copy.target, gives_back=True)
            self.written += SEGMENT * len(copies)
            rest = rest[SEGMENT * len(copies) :]
        return super().checked(rest, value)

    def _free_segments(self, most: int) -> list[memoryview]:
        """One, for which it waits, and as many more as can be filled at once and are free now."""
        self._filling.append(self._free_segment())
        with contextlib.suppress(queue.Empty):
            for _ in range(1, min(most, filling.thread_count())):
                self._tickets.get_nowait()
                self._filling.append(segments.take())
        return self._filling

    def lasting(self, data: memoryview) -> None:
        """Take bytes whose memory stays: whole segments of it, where aligned, go as they are."""
        whole = 0
        if self._filled == 0 and address_of(data) % PAGE == 0:
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
                done += some(os.pwrite(self._fd, data[done:], at + done))
            except OSError as error:
                if not (was_direct and error.errno in REFUSED):
                    raise
                self._is_direct = set_direct(self._fd, False)  # a refusal only when it is tried

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
        self._is_direct = set_direct(self._fd, False)
        if self._segment is not None:
            self._write_at(self._segment[aligned : self._filled], self._at + aligned)

    def close(self) -> None:
        """Let the threads write no more, wait for them, and give the memory back."""
        self._is_stopped = True
        filling.stop(self._copying)
        self._wait()
        if self._fd >= 0:
            locks.close_duplicate(self._fd)
            self._fd = -1
        if self._segment is not None:
            self._filling.append(self._segment)
            self._segment = None
        while self._filling:
            segments.give_back(self._filling.pop())

    def _wait(self) -> None:
        for job in self._jobs:
            job.wait()


def sink_of(fd: int, nbytes: int) -> Sink:
    """The sink that suits a new, empty file of ``nbytes``."""
    is_large = nbytes >= DIRECT_FROM and settings.writer_threads() > 0
    if is_large and hasattr(os, "pwrite") and start_threads() and set_direct(fd, True):
        return SegmentSink(fd, nbytes)
    return GatheringSink(partial(write_all, fd))


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
