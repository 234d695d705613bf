"""A board on which the processes of a training leave notes for each other.

It is the store that they met at (``torch.distributed`` calls it so), and never one of the
training's process groups: saves go on in threads of their own, and collectives of two threads on
one group get mixed up. Nobody waits inside the store, as one who does holds up all others of that
process: a note is looked for again and again, at intervals.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch.distributed as dist

from holdfast.distributed.letters import lost
from holdfast.distributed.life import Life, Signs
from holdfast.errors import RanksError

#: Where notes are: ``torch.distributed.Store`` and what is like it.
Store: TypeAlias = Any
#: What tells the processes of one start from those of another: torchrun keeps the store when it
#: starts all of them again, with the notes of those that have ended.
_START = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE")
#: Seconds between two looks, first and at last.
_FIRST, _LAST = 0.0005, 0.05
#: Seconds between two looks at whether the others are alive.
_LOOK = 1.0


class Board:
    """The notes of one process, ``rank`` of ``size``, on a store that all of them have.

    Notes are pickled: they come from processes of the same job.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        # Whoever ends the process group ends its store, too: a thread must not keep it alive.
        self._found = weakref.ref(store)
        started = (os.environ.get(name, "") for name in _START)
        self._below = f"holdfast/{'/'.join(started)}/"  # what the keys of all notes begin with
        self._life = Life(self._set_bytes, rank)
        self._signs: dict[int, Signs] = {}
        self._lock = threading.Lock()

    def post(self, key: str, value: Any) -> None:
        """Leave a note for the others."""
        self._set_bytes(key, pickle.dumps(value))

    def remove(self, key: str) -> None:
        """Take a note away that everyone has read."""
        self._reached(lambda: self._store.delete_key(self._below + key))

    def has(self, *keys: str) -> bool:
        """Whether these notes are there, all of them."""
        return bool(self._reached(lambda: self._store.check([self._below + key for key in keys])))

    def read(self, key: str) -> Any:
        """A note that is there."""
        return pickle.loads(self._reached(lambda: self._store.get(self._below + key)))

    def wait(
        self,
        keys: dict[int, str],
        seconds: float | None,
        late: Callable[[list[int]], RanksError],
        *,
        until: Callable[[], object] = lambda: None,
    ) -> None:
        """Return when every rank has left its note; ``keys`` are theirs by rank.

        ``late`` makes the error of the ranks whose notes are not there after so many seconds; with
        None they may take as long as they live. ``until`` is called at each look, and may raise.

        Raises:
            RanksError: that of ``late``, or a rank is not alive.
        """

        def missing() -> list[int]:
            return [rank for rank, key in keys.items() if not self.has(key)]

        for elapsed in self._looks(missing):
            if self.has(*keys.values()):
                return
            until()
            if seconds is not None and elapsed > seconds:
                raise late(missing())

    def follow(
        self,
        key: str,
        wanted: Callable[[Any], bool],
        seconds: float,
        late: Callable[[list[int]], RanksError],
        *,
        of: int = 0,
    ) -> Any:
        """Wait for a note that is ``wanted``; its rank writes another in place of the last.

        Raises:
            RanksError: that rank is not alive, or writes none in so many seconds.
        """
        for elapsed in self._looks(lambda: [of]):
            if self.has(key) and wanted(value := self.read(key)):
                return value
            if elapsed > seconds:
                raise late([of])
        raise AssertionError("looks have no end")

    def _looks(self, waited_for: Callable[[], list[int]]) -> Iterator[float]:
        """The seconds since the first look, at each; in between it is seen who is alive.

        Raises:
            RanksError: a rank that is waited for is not alive.
        """
        began = looked = time.monotonic()
        pause = _FIRST
        while True:
            now = time.monotonic()
            yield now - began
            if now - looked > _LOOK:
                dead = [rank for rank in waited_for() if not self._is_alive(rank)]
                if dead:
                    raise lost(dead)
                looked = now
            time.sleep(pause)
            pause = min(_LAST, 1.5 * pause)

    def _is_alive(self, rank: int) -> bool:
        with self._lock:
            signs = self._signs.setdefault(rank, Signs(rank))
        return signs.are_seen(self._get_or_none)

    def _get_or_none(self, key: str) -> bytes | None:
        if not self.has(key):
            return None
        return bytes(self._reached(lambda: self._store.get(self._below + key)))

    def _set_bytes(self, key: str, value: bytes) -> None:
        self._reached(lambda: self._store.set(self._below + key, value))

    @property
    def _store(self) -> Store:
        store = self._found()
        if store is None:
            raise ConnectionError("the process group was destroyed")
        return store

    def _reached(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (dist.DistError, RuntimeError, ConnectionError, OSError) as error:
            raise RanksError(
                "the processes of this training cannot reach each other any more",
                found=str(error).partition("\n")[0][:200],
                cure="The process that keeps their store has ended, or the network is gone. "
                "Start the job again: it goes on from the last checkpoint.",
            ) from error
