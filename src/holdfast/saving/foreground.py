"""Write an encoded object to a file, all or nothing, or into an open binary file."""

from __future__ import annotations

import io
import logging
import os
import time
from dataclasses import dataclass
from typing import BinaryIO

from holdfast.errors import UsageError
from holdfast.io.commit import Fill, commit
from holdfast.io.progress import Bar, is_watched
from holdfast.io.sink import Buffer, GatheringSink, Passing, Sink
from holdfast.saving.planned import Planned, plan
from holdfast.tensors import encode

log = logging.getLogger("holdfast")

#: The bar moves each time so many bytes are taken.
_SHOWN_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class SaveInfo:
    """What a finished save wrote: where (None for a file object), how much, how long it took.

    ``nbytes`` is the file's size; ``seconds`` the time from encoding to durable.
    """

    path: str | None
    nbytes: int
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The same as JSON values."""
        return {"path": self.path, "nbytes": self.nbytes, "seconds": self.seconds}


def save_encoded(
    encoded: encode.Encoded,
    file: str | os.PathLike[str] | BinaryIO,
    *,
    record: bytes | None = None,
    started: float | None = None,
) -> SaveInfo:
    """Write what ``encode`` gave to a path (durable) or a binary file object (flushed).

    Raises:
        FileError: the file system said no; what was there before is untouched.
        UsageError: ``file`` is neither a path nor a binary file object.
    """
    started = time.monotonic() if started is None else started
    path = _path_of(file)
    planned = plan(encoded, path, record)
    if path is not None:
        return save_file(path, planned.nbytes, watched(planned), started=started)
    sink = GatheringSink(file.write)  # type: ignore[union-attr]
    planned.fill(sink)
    sink.end()
    file.flush()  # type: ignore[union-attr]
    return SaveInfo(None, planned.nbytes, time.monotonic() - started)


def watched(planned: Planned) -> Fill:
    """What writes a planned file, with a bar where a person watches and it takes over a second."""
    if not is_watched():
        return planned.fill

    def fill(sink: Sink) -> None:
        with Bar(planned.nbytes) as bar:
            planned.fill(_Watched(sink, bar))

    return fill


class _Watched(Passing):
    """Hands bytes on, and has a bar show how many."""

    def __init__(self, sink: Sink, bar: Bar) -> None:
        super().__init__(sink)
        self._bar = bar

    def checked(self, data: memoryview, value: int = 0) -> int:
        for start in range(0, len(data), _SHOWN_NBYTES):
            part = data[start : start + _SHOWN_NBYTES]
            value = self._sink.checked(part, value)
            self._bar.advance(len(part))
        return value

    def _take(self, data: Buffer) -> None:
        super()._take(data)
        self._bar.advance(len(data))


def save_file(path: str, nbytes: int, fill: Fill, *, started: float) -> SaveInfo:
    """Write a file all or nothing; durable when this returns.

    Raises:
        FileError: the file system said no; what was there before is untouched.
    """
    commit(path, nbytes, fill)
    return SaveInfo(path, nbytes, time.monotonic() - started)


def _path_of(file: str | os.PathLike[str] | BinaryIO) -> str | None:
    if isinstance(file, str | os.PathLike):
        return os.fspath(file)
    if isinstance(file, io.TextIOBase) or not callable(getattr(file, "write", None)):
        raise UsageError(
            "save() writes to a path or a binary file object",
            found=f"{type(file).__module__}.{type(file).__qualname__}",
            cure='Open the file in binary mode: open(path, "wb").',
        )
    return None


def warn_of_slices(encoded: encode.Encoded) -> None:
    """Warn of storages more than twice as large as what the object's tensors refer to."""
    pairs = zip(encoded.storages, encoded.referenced, strict=True)
    known = [(s.nbytes(), used) for s, used in pairs if used is not None]
    dragged = [(nbytes, used) for nbytes, used in known if nbytes > 2 * used]
    if dragged:
        whole, used = (sum(column) for column in zip(*dragged, strict=True))
        log.warning(
            "%d saved storages are larger than the views of them: %s bytes are written where %s "
            "are referred to, as torch.save does. Save view.clone() to write only the view.",
            len(dragged),
            f"{whole:,}",
            f"{used:,}",
        )
