"""Bytes that can be read at any offset, whatever holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from holdfast.errors import FileError, TruncatedError

if TYPE_CHECKING:
    from typing_extensions import Self


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

    def _size_now(self) -> int:
        """The size in bytes at this moment: a file may have become shorter since it was opened."""
        return self.size

    def _ends_early(self, wanted: int) -> TruncatedError:
        return TruncatedError(
            "this file ends too early",
            file=self.name,
            wanted=f"at least {wanted:,} bytes",
            found=f"{min(self.size, self._size_now()):,} bytes",
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

    def _size_now(self) -> int:
        return max(0, self._owner._size_now() - self._offset)

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
