"""Every exception holdfast raises.

Each is a short letter: what happened, where, what was wanted and what was found, and what to do.

::

    HoldfastError
    ├── UsageError             the call itself is wrong: an option, a name, a step
    ├── FileError              the file system said no
    │   ├── NoSpaceError       the disk cannot hold what is to be written
    │   └── LockedError        another process writes to this run
    ├── FormatError            the bytes are not what they should be
    │   ├── NotACheckpointError   another kind of file
    │   ├── TruncatedError     the file ends too early
    │   ├── DamagedError       bytes changed since they were saved, or since the file was opened
    │   └── RefusedError       a rule for hostile files is broken
    ├── UntrustedError         the file names classes outside the closed table
    ├── CaptureError           a live object that cannot be a part, or cannot be saved
    ├── MismatchError          the checkpoint and the live objects do not fit
    │   └── MissingPartError   the checkpoint does not hold the part asked for
    ├── NoCheckpointError      nothing there to resume from
    ├── MissingExtraError      a package that is not installed
    ├── ExportError            a model that cannot become a program, or whose program differs
    ├── SaveFailedError        a save begun earlier has failed
    ├── RanksError             another process of this training failed, is missing, or differs
    └── RestoreInterrupted     the disk failed in the last phase of a restore
"""

from __future__ import annotations

from typing import Any


class HoldfastError(Exception):
    """The base of all errors of this package.

    The pieces of the letter are attributes: ``what``, ``file``, ``member``, ``tensor``, ``wanted``,
    ``found`` and ``cure``; ``str()`` puts them together.
    """

    def __init__(
        self,
        what: str,
        *,
        file: object = None,
        member: str | None = None,
        tensor: str | None = None,
        wanted: object = None,
        found: object = None,
        cure: str | None = None,
    ) -> None:
        self.what = what
        self.file = None if file is None else str(file)
        self.member = member
        self.tensor = tensor
        self.wanted = None if wanted is None else str(wanted)
        self.found = None if found is None else str(found)
        self.cure = cure
        super().__init__(what)

    @property
    def where(self) -> str | None:
        """The place in words: file, archive member, tensor path; None when there is none."""
        places = [
            self.file,
            None if self.member is None else f"member {self.member!r}",
            None if self.tensor is None else f"tensor {self.tensor!r}",
        ]
        return ", ".join(place for place in places if place) or None

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  in {self.where}")
        sides = [("wanted", self.wanted), ("found", self.found)]
        if any(value is not None for _, value in sides):
            lines.append("  " + ", ".join(f"{k} {v}" for k, v in sides if v is not None))
        if self.cure is not None:
            lines.extend("  " + line for line in self.cure.splitlines())
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with every piece, so that errors cross process borders whole."""
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(cls: type[HoldfastError], pieces: dict[str, object]) -> HoldfastError:
    error = cls.__new__(cls)
    Exception.__init__(error, pieces["what"])
    for name, value in pieces.items():
        setattr(error, name, value)
    return error


class UsageError(HoldfastError, ValueError):
    """The call itself is wrong: an option, a name, a step."""


class FileError(HoldfastError, OSError):
    """The file system said no; ``errno`` is that of the system's own error, which is the cause."""

    def __init__(self, what: str, *, errno: int | None = None, **pieces: Any) -> None:
        super().__init__(what, **pieces)
        self.errno = errno

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with every piece and the errno, which OSError keeps outside ``__dict__``."""
        return (_rebuild, (type(self), {**self.__dict__, "errno": self.errno}))


class NoSpaceError(FileError):
    """The disk cannot hold what is to be written."""


class LockedError(FileError):
    """Another process writes to this run."""


class FormatError(HoldfastError):
    """The bytes are not what they should be."""


class NotACheckpointError(FormatError):
    """Another kind of file."""


class TruncatedError(FormatError):
    """The file ends too early."""


class DamagedError(FormatError):
    """Bytes changed since they were saved (a CRC says so), or while the file was read."""


class RefusedError(FormatError):
    """A rule for hostile files is broken; the message names the rule."""


class UntrustedError(HoldfastError):
    """The file names classes or functions outside the closed table; ``symbols`` lists them all."""

    symbols: tuple[str, ...] = ()


class CaptureError(HoldfastError, TypeError):
    """A live object cannot be a part, or cannot be saved."""


class MismatchError(HoldfastError):
    """The checkpoint and the live objects do not fit; ``report`` is the LoadReport."""

    report: object = None


class MissingPartError(MismatchError, KeyError):
    """The checkpoint does not hold a part that was asked for."""

    __str__ = HoldfastError.__str__


class NoCheckpointError(HoldfastError, FileNotFoundError):
    """There is no checkpoint where one was looked for."""


class MissingExtraError(HoldfastError, ImportError):
    """Something needs a package that is not installed; the message says how to install it."""

    __str__ = HoldfastError.__str__


class ExportError(HoldfastError):
    """A model cannot become a program of that kind, or the program computes something else."""


class SaveFailedError(HoldfastError):
    """A save begun earlier has failed; the previous checkpoint is still there."""


class RanksError(HoldfastError):
    """Another process of this training failed, is missing, or sees something else.

    ``ranks`` are those that it speaks of, and ``error`` is what went wrong there, where that is
    known.
    """

    ranks: tuple[int, ...] = ()
    error: HoldfastError | None = None


class RestoreInterrupted(HoldfastError):
    """The disk failed while live tensors were written: load the state again before using it."""
