"""What takes the bytes of a file in order; the simplest is any function, small pieces gathered."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from holdfast.io.checksum import CHUNK, crc32

Buffer: TypeAlias = bytes | bytearray | memoryview

#: Small pieces are gathered up to this many bytes before they go to the system.
GATHER_NBYTES = 1 << 20
#: No single write is longer, so that Linux never shortens it (it stops at 2 GiB).
WRITE_NBYTES = 1 << 30


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

    def checked(self, data: memoryview, value: int = 0) -> int:
        """Take bytes and return their CRC-32, going on from ``value``."""
        for start in range(0, len(data), CHUNK):  # what is checked is copied from the cache
            part = data[start : start + CHUNK]
            value = crc32(part, value)
            self(part)
        return value

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


class Passing(Sink):
    """Hands bytes on to another sink, which is ended and closed with it."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    @property
    def flushed(self) -> int:
        """How many bytes the system has."""
        return self._sink.flushed

    def _take(self, data: Buffer) -> None:
        self._sink(data)

    def end(self) -> None:
        """As the other does."""
        self._sink.end()

    def close(self) -> None:
        """As the other does."""
        self._sink.close()


class Checking(Passing):
    """Hands bytes on, and takes their CRC-32."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.crc = 0

    def _take(self, data: Buffer) -> None:
        self.crc = crc32(data, self.crc)
        super()._take(data)


def write_all(fd: int, data: Buffer) -> None:
    """Write all of ``data`` at the descriptor's position, however short single writes are."""
    with memoryview(data) as view:
        at = 0
        while at < len(view):
            at += some(os.write(fd, view[at : at + WRITE_NBYTES]))


def some(nbytes: int) -> int:
    """What a write returned; none at all is an error, where trying again would never end."""
    if nbytes == 0:
        raise OSError(errno.EIO, "the system wrote nothing and said no error")
    return nbytes
