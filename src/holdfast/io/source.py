"""Reading bytes by position: from a path, or from an open binary file.

Nothing here maps a file into memory: a file truncated underneath a mapping would kill the process.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from holdfast.errors import (
    FileError,
    NoCheckpointError,
    NotACheckpointError,
    RefusedError,
    TruncatedError,
    UsageError,
)

if TYPE_CHECKING:
    from typing_extensions import Self

#: Files of one folder that stay open; systems allow a process few more by default (256 and 1024).
_MOST_HELD = 100


class Source(ABC):
    """Bytes that can be read at any offset, from several threads at once.

    ``name`` is for messages, ``size`` in bytes is that at opening. ``path`` is None for a file
    object. ``origin`` is where byte 0 lies in the file of that name (a window begins further on).
    A checkpoint of several files, or with a file inside the file, is one source with others below
    it: ``of`` finds them by name, and closing it closes all.
    """

    name: str
    size: int
    path: str | None = None
    origin: int = 0
    is_folder = False

    def __init__(self) -> None:
        self._below: dict[str, Source] = {}

    def of(self, file: str) -> Source:
        """The source of that name: this one, or one below it, however deep."""
        found = self._find(file)
        if found is None:
            raise KeyError(file)
        return found

    def _find(self, file: str) -> Source | None:
        if file == self.name:
            return self
        if file in self._below:
            return self._below[file]
        found = (source._find(file) for source in self._below.values())
        return next((source for source in found if source is not None), None)

    def adopt(self, source: Source) -> Source:
        """Keep ``source`` below this one, until this one is closed."""
        self._below[source.name] = source
        return source

    def window(self, offset: int, nbytes: int) -> Source:
        """A run of this source's bytes as a source of its own; it needs no closing.

        Raises:
            TruncatedError: the file ends before its end.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self._ends_early(offset + nbytes)
        return _Window(self, offset, nbytes)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes from ``offset`` on.

        Raises:
            TruncatedError: the file ends before them.
            FileError: the file system said no.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self._ends_early(offset + nbytes)
        data = bytearray(nbytes)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` (writable bytes) from ``offset`` on; raises like ``read_at``."""
        done, nbytes = 0, view.nbytes
        while done < nbytes:
            try:
                count = self._read_some(offset + done, view[done:])
            except OSError as error:
                raise self._failed(error) from error
            if count == 0:
                raise self._ends_early(offset + nbytes)
            done += count

    @abstractmethod
    def _read_some(self, offset: int, view: memoryview) -> int:
        """Read at least one byte into ``view``; 0 at the end of the file."""

    def close(self) -> None:
        """Give back what the source and those below it hold; a second call does nothing."""
        for source in self._below.values():
            source.close()
        self._below.clear()
        self._close()

    @abstractmethod
    def _close(self) -> None:
        """Give back what this source itself holds; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError) -> FileError:
        return FileError(
            f"this cannot be read: {error.strerror or error}", errno=error.errno, file=self.name
        )

    def _ends_early(self, wanted: int) -> TruncatedError:
        return TruncatedError(
            "this file ends too early",
            file=self.name,
            wanted=f"at least {wanted:,} bytes",
            found=f"{self.size:,} bytes",
            cure="It was not written or copied to its end: get it again, or use an earlier one.",
        )


class _Window(Source):
    """A run of another source's bytes, under the same name."""

    def __init__(self, owner: Source, offset: int, nbytes: int) -> None:
        super().__init__()
        self.name, self.path, self.size = owner.name, owner.path, nbytes
        self.origin = owner.origin + offset
        self._owner, self._offset = owner, offset

    def _read_some(self, offset: int, view: memoryview) -> int:
        return self._owner._read_some(self._offset + offset, view)

    def _close(self) -> None:
        """Nothing is held."""


class Memory(Source):
    """Bytes that are in memory already: a file found inside another one."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str) -> None:
        super().__init__()
        self.name, self._data = name, memoryview(data).cast("B")
        self.size = self._data.nbytes

    def _read_some(self, offset: int, view: memoryview) -> int:
        count = max(0, min(view.nbytes, self.size - offset))
        view[:count] = self._data[offset : offset + count]
        return count

    def _close(self) -> None:
        """Nothing but memory is held."""


class Folder(Source):
    """A checkpoint folder: no bytes of its own, and the files in it as sources below it."""

    is_folder = True
    size = 0

    def __init__(self, path: str) -> None:
        super().__init__()
        self.name = self.path = path

    def names(self) -> list[str]:
        """The names of what lies in it, sorted; raises FileError."""
        try:
            return sorted(entry.name for entry in Path(self.name).iterdir())
        except OSError as error:
            raise self._failed(error) from error

    def has(self, relative: str) -> bool:
        """Whether a file of that name lies in it; raises FileError."""
        try:
            return (Path(self.name) / relative).is_file()
        except OSError as error:
            raise self._failed(error) from error

    def open(self, relative: str) -> Source:
        """The file at a path below the folder, opened once.

        Raises:
            RefusedError: the path, or a link on it, leads out of the folder.
            NoCheckpointError: it is not there.
        """
        steps = relative.split("/")
        if "\\" in relative or "\0" in relative or any(step in ("", ".", "..") for step in steps):
            raise self._leads_out(relative, relative)
        path = Path(self.name) / relative
        if str(path) not in self._below:
            self._check_links(relative, path)
            self.adopt(open_source(path) if len(self._below) < _MOST_HELD else _Unheld(str(path)))
        return self._below[str(path)]

    def _check_links(self, relative: str, path: Path) -> None:
        try:
            home, target = Path(self.name).resolve(), path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
            raise self._leads_out(relative, str(error)) from error
        homes = [home]
        if home.parent.name == "snapshots":  # a download cache: blobs beside, links in snapshots
            homes.append(home.parent.parent / "blobs")
        if not any(target.is_relative_to(each) for each in homes):
            raise self._leads_out(relative, str(target))

    def _leads_out(self, relative: str, found: str) -> RefusedError:
        return RefusedError(
            "refused: the files of a checkpoint folder lie in it",
            file=self.name,
            member=relative[:200],
            found=ascii(found)[1:-1][:200],
            cure="A link that leads elsewhere on purpose: copy the folder with cp -rL first.",
        )

    def _read_some(self, offset: int, view: memoryview) -> int:
        return 0

    def _close(self) -> None:
        """The files below are closed already."""


class _FileObject(Source):
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


class _OwnFile(_FileObject):
    """A file opened here: an unnamed one, or where the system has no ``preadv`` (Windows)."""

    def fileno(self) -> int:
        """The descriptor, for the one caller that maps (``load(mmap=True)``)."""
        return self._file.fileno()

    def _close(self) -> None:
        self._file.close()


class _Descriptor(Source):
    """A file opened here by path, read with ``preadv``: no position, no lock."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__()
        self.name = self.path = path
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor, for the one caller that maps (``load(mmap=True)``)."""
        return self._descriptor

    def _read_some(self, offset: int, view: memoryview) -> int:
        return os.preadv(self._descriptor, [view], offset)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        if offset >= 0 and nbytes >= 0 and offset + nbytes <= self.size:
            try:
                data = os.pread(self._descriptor, nbytes, offset)
            except OSError as error:
                raise self._failed(error) from error
            if len(data) == nbytes:
                return data
        return super().read_at(offset, nbytes)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Unheld(Source):
    """One file of very many, opened anew for each read, and read only while it is the same one."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.name = self.path = path
        with open_source(path) as source:
            self.size = source.size
            self._identity = self._identity_now()

    def _read_some(self, offset: int, view: memoryview) -> int:
        with open_source(self.name) as source:
            if self._identity_now() != self._identity:
                raise TruncatedError(
                    "this file was changed while it was read",
                    file=self.name,
                    cure="Read it again when nobody writes to it any more.",
                )
            return source._read_some(offset, view)

    def _identity_now(self) -> tuple[int, ...]:
        found = Path(self.name).stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _close(self) -> None:
        """Nothing is held."""


def open_source(file: str | os.PathLike[str] | BinaryIO) -> Source:
    """Open a path, or a binary file object from its current position on, as torch.load does.

    Raises:
        NoCheckpointError: no such file.
        NotACheckpointError: neither a regular file nor a folder.
        FileError: the file system said no.
        UsageError: neither a path nor a binary file that can seek.
    """
    if isinstance(file, str | os.PathLike):
        return _open_path(os.fspath(file))
    if isinstance(file, io.TextIOBase) or not callable(getattr(file, "read", None)):
        raise UsageError(
            "a path or a binary file object is needed to read from",
            found=f"{type(file).__module__}.{type(file).__qualname__}",
            cure='Open the file in binary mode: open(path, "rb").',
        )
    return _FileObject(file, _name_of(file))


def owned(file: BinaryIO, name: str) -> Source:
    """A file that has no path, from its beginning; it is closed with its source."""
    file.seek(0)
    return _OwnFile(file, name)


def _open_path(path: str) -> Source:
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            return Folder(path)
        if not stat.S_ISREG(mode):
            raise NotACheckpointError("this is no regular file (a device or a pipe)", file=path)
        if not hasattr(os, "preadv"):
            return _OwnFile(Path(path).open("rb"), path)
        return _Descriptor(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)), path)
    except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL character in the path
        raise NoCheckpointError("there is no such file", file=path) from error
    except OSError as error:
        raise FileError(
            f"this cannot be read: {error.strerror or error}",
            errno=error.errno,
            file=path,
            cure=f"Check its owner and permissions: ls -ld {path}",
        ) from error


def _name_of(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else f"<{type(file).__name__}>"
