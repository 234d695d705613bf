"""One folder, written by all ranks: each its file, rank 0 what describes them, and the commit.

Whoever fails says so at once, and the others stop in the middle of what they write; rank 0 takes
the folder away when all have stopped. Nobody waits for one that has ended.
"""

from __future__ import annotations

import array
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from holdfast.distributed import letters
from holdfast.distributed.planning import file_of
from holdfast.distributed.ranks import Ranks
from holdfast.errors import RanksError
from holdfast.io.commit import Fill
from holdfast.io.commit_folder import NewFolder, write_new
from holdfast.io.sink import Buffer, Passing, Sink

log = logging.getLogger("holdfast")

#: Seconds between two looks at whether another rank has failed.
_LOOK = 0.5
#: Bytes between two of them, where many are written at once.
_PIECE = 256 << 20
#: Seconds that the others have to stop, before the folder is taken away under them.
_TO_STOP = 30.0
#: Seconds until a folder that rank 0 has made is seen by all: of a network file system.
_TO_BE_SEEN = 10.0


class SharedFolder:
    """One save, whose id is ``id``, as one rank takes part in it."""

    def __init__(self, ranks: Ranks, id: str) -> None:
        self._ranks, self._id = ranks, id

    def write(self, temp: Path, target: Path, nbytes: int, fill: Fill, crcs: list[int]) -> None:
        """On every rank but 0: write this rank's file, and tell rank 0 how that went.

        Raises:
            RanksError: another rank has failed.
            FileError: the file system said no.
        """
        done: list[int] | None = None
        try:
            with self._failing_loudly():
                if nbytes:
                    self._wait_for(temp, target)
                    path = temp / file_of(self._ranks.rank)
                    write_new(path, nbytes, self._stopping(fill), target=target)
                done = crcs
        finally:
            self._ranks.tell(self._wrote(self._ranks.rank), _packed(done))

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """What is done here may fail: then all are told, and on rank 0 it waits until they stop."""
        try:
            with self._failing_loudly():
                yield
        except BaseException:
            if self._ranks.leads:
                self._wait_until_stopped()
            else:
                self._ranks.tell(self._wrote(self._ranks.rank), None)
            raise

    def lead(self, folder: NewFolder, nbytes: int, fill: Fill, crcs: list[int]) -> list[list[int]]:
        """On rank 0: write its file, and wait for the others; the checksums of all, by rank.

        Raises:
            RanksError: another rank has failed, or has ended.
            FileError: the file system said no.
        """
        if nbytes:
            folder.add(file_of(0), nbytes, self._stopping(fill))
        told = self._ranks.hear_all(self._wrote, until=self._check)
        self._check()  # who has failed says that first
        self._forget()
        return [crcs, *map(_unpacked, told)]

    def _wrote(self, rank: int) -> str:
        return f"wrote/{self._id}/{rank}"

    @property
    def _failed(self) -> str:
        return f"failed/{self._id}"

    def _check(self) -> None:
        """Raise what another rank has told of its failure."""
        if self._ranks.is_told(self._failed):
            rank, error = self._ranks.hear(self._failed)
            raise letters.failed(rank, error)

    @contextlib.contextmanager
    def _failing_loudly(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not self._ranks.is_told(self._failed):
                self._ranks.tell(self._failed, _told(self._ranks.rank, error))
            raise

    def _wait_until_stopped(self) -> None:
        until = time.monotonic() + _TO_STOP
        for rank in range(1, self._ranks.size):
            try:
                self._ranks.hear(
                    self._wrote(rank), of=rank, seconds=max(0.0, until - time.monotonic())
                )
            except RanksError as error:
                log.debug("not waited for any longer: %s", error.what)
        self._forget()

    def _forget(self) -> None:
        for rank in range(1, self._ranks.size):
            self._ranks.forget(self._wrote(rank))

    def _wait_for(self, temp: Path, target: Path) -> None:
        until = time.monotonic() + _TO_BE_SEEN
        while not temp.is_dir():
            if time.monotonic() > until:
                what = "no folder that rank 0 has made to write into"
                raise letters.sees_other(self._ranks.rank, what, str(target), "no such folder")
            time.sleep(0.05)

    def _stopping(self, fill: Fill) -> Fill:
        return lambda sink: fill(_Stopping(sink, self._check))


def _told(rank: int, error: BaseException) -> Any:
    """Which rank has failed, and how: one that stops for another's failure tells of that."""
    if isinstance(error, RanksError) and error.error is not None and len(error.ranks) == 1:
        return error.ranks[0], error.error
    return rank, letters.as_letter(error)


def _packed(crcs: list[int] | None) -> bytes | None:
    return None if crcs is None else array.array("I", crcs).tobytes()


def _unpacked(told: bytes) -> list[int]:
    return list(array.array("I", told))


class _Stopping(Passing):
    """Asks every now and then whether to go on."""

    def __init__(self, sink: Sink, check: Callable[[], None]) -> None:
        super().__init__(sink)
        self._look = check
        self._looked = time.monotonic()

    def lasting(self, data: memoryview) -> None:
        """Hand them on as they are."""
        self._check()
        self.written += len(data)
        self._sink.lasting(data)

    def checked(self, data: memoryview, value: int = 0) -> int:
        """Hand them on in pieces, and look in between."""
        for start in range(0, len(data), _PIECE):
            part = data[start : start + _PIECE]
            self._check()
            self.written += len(part)
            value = self._sink.checked(part, value)
        return value

    def _take(self, data: Buffer) -> None:
        self._check()
        super()._take(data)

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked = now
            self._look()
