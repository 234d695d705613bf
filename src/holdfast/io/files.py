"""Files as sources: opened here by path, or handed over open."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import (
    DamagedError,
    FileError,
    NoCheckpointError,
    NotACheckpointError,
    UsageError,
)
from holdfast.io import descriptors
from holdfast.io.positional import Source


class FileObject(Source):
    """A seekable binary file, from its position at opening on; a lock makes reads positional."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__()
        self.name = name
        self._file = file
        self._lock = threading.Lock()
        try:
            self._start = file.tell()
            self.size = file.seek(0, os.SEEK_END) - self._start
            file.seek(self._start)
        except (OSError, ValueError) as error:
            raise UsageError(
                "holdfast reads only from files in which it can seek",
                found=f"{type(file).__name__}: {error}",
                cure="Read it whole and pass io.BytesIO(data).",
            ) from error

    def _read_some(self, offset: int, view: memoryview) -> int:
        with self._lock:
            self._file.seek(self._start + offset)
            readinto = getattr(self._file, "readinto", None)
            if readinto is not None:
                return int(readinto(view) or 0)
            data = self._file.read(view.nbytes)
            view[: len(data)] = data
            return len(data)

    def _close(self) -> None:
        """Put the file back to where it was, so that it can be read again; it stays open."""
        if not self._file.closed:
            self._file.seek(self._start)


class _OwnFile(FileObject):
    """A file opened here: an unnamed one, or where the system has no ``preadv`` (Windows)."""

    def __init__(self, file: BinaryIO, name: str, path: str | None = None) -> None:
        super().__init__(file, name)
        self.path = path
        self._stamp = _Stamp(file.fileno())

    def fileno(self) -> int:
        """The descriptor, for the one caller that maps (``load(mmap=True)``)."""
        return self._file.fileno()

    def _read_some(self, offset: int, view: memoryview) -> int:
        count = super()._read_some(offset, view)
        self._stamp.check(self)
        return count

    def _size_now(self) -> int:
        return self.size if self._file.closed else os.fstat(self._file.fileno()).st_size

    def _close(self) -> None:
        self._file.close()


class _Descriptor(Source):
    """A file opened here by path, read with ``preadv``: no position, no lock."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__()
        self.name = self.path = path
        self._stamp = _Stamp(descriptor)
        self.size = self._stamp.size
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor, for the one caller that maps (``load(mmap=True)``)."""
        return self._descriptor

    def _read_some(self, offset: int, view: memoryview) -> int:
        count = os.preadv(self._descriptor, [view], offset)
        self._stamp.check(self)
        return count

    def read_at(self, offset: int, nbytes: int) -> bytes:
        if offset >= 0 and nbytes >= 0 and offset + nbytes <= self.size:
            try:
                data = os.pread(self._descriptor, nbytes, offset)
                self._stamp.check(self)
            except OSError as error:
                raise self._failed(error) from error
            if len(data) == nbytes:
                return data
        return super().read_at(offset, nbytes)

    def _size_now(self) -> int:
        return self.size if self._descriptor < 0 else os.fstat(self._descriptor).st_size

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            descriptors.close_read(descriptor)


class _Stamp:
    """Size and time of the last write of an open file, to notice that it was written since.

    Taken after each read, it costs less than a microsecond, and finds what no CRC could: most
    formats have none. A write within one tick of the file system's clock is not seen.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.size, self._written = found.st_size, found.st_mtime_ns

    def check(self, source: Source) -> None:
        """Raise if the file has changed: TruncatedError where it is shorter, else DamagedError."""
        found = os.fstat(self._descriptor)
        if found.st_size < self.size:
            raise source._ends_early(self.size)
        if (found.st_size, found.st_mtime_ns) != (self.size, self._written):
            raise changed(source.name)


def changed(file: str) -> DamagedError:
    """The letter for a file that was written into while it was open."""
    return DamagedError(
        "this file was changed while it was read",
        file=file,
        cure="Read it again when nobody writes to it any more.",
    )


def owned(file: BinaryIO, name: str) -> Source:
    """A file that has no path, from its beginning; it is closed with its source."""
    file.seek(0)
    return _OwnFile(file, name)


def open_file(path: str) -> Source:
    """Open a regular file by its path.

    Raises:
        NoCheckpointError: no such file.
        NotACheckpointError: a folder, a device or a pipe.
        FileError: the file system said no.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise NotACheckpointError("this is no regular file (a device or a pipe)", file=path)
        if not hasattr(os, "preadv"):
            return _OwnFile(Path(path).open("rb"), path, path)
        return _Descriptor(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)), path)
    except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL character in the path
        raise NoCheckpointError("there is no such file", file=path) from error
    except OSError as error:
        raise cannot_be_read(path, error) from error


def cannot_be_read(path: str, error: OSError) -> FileError:
    """The letter for a path that the system does not open."""
    return FileError(
        f"this cannot be read: {error.strerror or error}",
        errno=error.errno,
        file=path,
        cure=f"Check its owner and permissions: ls -ld {path}",
    )


def name_of(file: object) -> str:
    """What a file object is called in messages."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else f"<{type(file).__name__}>"
