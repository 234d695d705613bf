"""One writer per run folder: a lock on ``.lock``, gone with the process that holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
from pathlib import Path
from types import TracebackType

from holdfast.errors import FileError, LockedError
from holdfast.io import locks
from holdfast.io.cures import cure_of

log = logging.getLogger("holdfast")

#: The file that is locked. It is never removed: whoever held the removed one would hold nothing.
LOCK_NAME = ".lock"

#: What the system says where the folder can be read and not be written to.
_ONLY_READ = {errno.EROFS, errno.EACCES, errno.EPERM}

#: No holder's note is longer; whatever lies behind that is no note.
_NOTE_NBYTES = 4096


class RunLock:
    """The right to write to one run folder.

    A forked child does not have it, and cannot get it through this object; its copy of the open
    file is closed without unlocking.
    """

    _fd: int | None = None
    _pid: int | None = None

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def path(self) -> Path:
        """The locked file."""
        return self.folder / LOCK_NAME

    @property
    def is_held(self) -> bool:
        """Whether this process holds it through this object."""
        return self._fd is not None and self._pid == os.getpid()

    @property
    def is_in_place(self) -> bool:
        """Whether it is held and keeps others out: the file locked is the one in the folder.

        It is not when the folder, or the file, was removed or replaced since.
        """
        if self._fd is None or not self.is_held:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.lstat())
        except OSError as error:
            log.debug("the lock held is no longer in place: %s", error)
            return False

    @property
    def is_lost(self) -> bool:
        """Whether the process that holds it is the one this process was forked from."""
        return self._fd is not None and self._pid != os.getpid()

    def acquire(self) -> None:
        """Take the lock, at once or not at all; nothing happens when it is held already.

        Where the file system has no locks, a warning is logged and the run goes on without one.

        Raises:
            LockedError: another process holds it, or another object of this one.
            FileError: the folder is not there or cannot be written to.
        """
        if self.is_held:
            return
        if self.is_lost:
            raise self._forked()
        try:
            fd = self._open()
        except BlockingIOError as error:
            raise self._taken() from error
        except OSError as error:
            raise self._refused(error) from error
        self._fd, self._pid = fd, os.getpid()
        _write_note(fd)

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._fd is not None and self.is_held:
            locks.close(self._fd)
            self._fd = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        # A link could lead the note into a file of somebody else.
        flags |= getattr(os, "O_NOFOLLOW", 0)
        fd = locks.open_locked(self.path, flags, 0o666)
        if not locks.try_lock(fd):
            log.warning(
                "%s: this file system has no locks, so nothing keeps a second process from writing "
                "to this run. Start only one at a time.",
                self.folder,
            )
        return fd

    def _taken(self) -> LockedError:
        pid, host = _read_note(self.path)
        if pid == os.getpid() and host == platform.node():
            return LockedError(
                "this process already writes to this run, through another object",
                errno=errno.EWOULDBLOCK,
                file=self.folder,
                cure="Close that one first: run.close(), or use `with`.",
            )
        holder = "another process" if pid is None else f"process {pid} on {host}"
        return LockedError(
            f"{holder} writes to this run",
            errno=errno.EWOULDBLOCK,
            file=self.folder,
            cure="Wait until it ends, or stop it; or give this training a folder of its own.\n"
            "Reading needs no lock: holdfast list, Run(folder).load(...).",
        )

    def _forked(self) -> LockedError:
        return LockedError(
            "a forked child cannot write to the run of its parent",
            errno=errno.EWOULDBLOCK,
            file=self.folder,
            wanted=f"process {self._pid}",
            found=f"process {os.getpid()}",
            cure="Save in the process that made the Run.",
        )

    def _refused(self, error: OSError) -> FileError:
        otherwise = "Check that the folder is there and yours: ls -ld {folder}"
        cure = cure_of(error, self.folder, otherwise=otherwise)
        if error.errno in _ONLY_READ:
            cure += "\nReading needs no lock: holdfast.Run(folder).load(...)."
        return FileError(
            f"this run cannot be locked for writing: {error.strerror or error}",
            errno=error.errno,
            file=self.path,
            cure=cure,
        )


def _write_note(fd: int) -> None:
    """Say who holds the lock, for the message that a second process gets."""
    note = json.dumps({"pid": os.getpid(), "host": platform.node()}).encode() + b"\n"
    try:
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, note)
    except OSError as error:  # a full disk must not keep a run from starting to read
        log.debug("the lock is held, but not who holds it is written: %s", error)


def _read_note(path: Path) -> tuple[int | None, str | None]:
    """The holder's pid and host; None and None where no note can be read."""
    try:
        with path.open("rb") as file:
            note = json.loads(file.read(_NOTE_NBYTES).decode())
        pid, host = note["pid"], note["host"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.debug("who holds the lock is not known: %s", error)
        return None, None
    is_note = isinstance(pid, int) and isinstance(host, str) and host.isprintable()
    return (pid, host) if is_note else (None, None)
