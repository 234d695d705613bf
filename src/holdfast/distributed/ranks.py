"""What all processes of a training decide together, one decision after the other.

Rank 0 decides, from what each of them says; all learn of it, of an error anywhere too. Each call
has a number and a name: a rank that makes another call, or none, is named in an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from holdfast.distributed import letters
from holdfast.distributed.board import Board
from holdfast.errors import RanksError

log = logging.getLogger("holdfast")

T = TypeVar("T")

#: Seconds that a rank may come later to a call than the first one.
PATIENCE = 60.0
#: Rank 0 says who is late; the others give it this much longer.
_LONGER = 10.0
#: Seconds that rank 0 may take for a step in which the others have nothing to wait for but it.
_LONGEST = 1800.0


class _Note(NamedTuple):
    """What a rank says at one call, and which call that is."""

    call: str
    value: Any


class _Answer(NamedTuple):
    value: Any
    error: RanksError | None


class Ranks:
    """This process among those of its training, for one run: its notes are below ``name``.

    ``patience`` are the seconds that a rank may come later to a call than the first.
    """

    def __init__(self, board: Board, name: str, *, patience: float = PATIENCE) -> None:
        self.rank, self.size, self.patience = board.rank, board.size, patience
        self._board, self._name = board, name
        self._count = 0
        self._broken: RanksError | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes and decides."""
        return self.rank == 0

    def agree(
        self,
        call: str,
        say: Callable[[], Any],
        decide: Callable[[list[Any]], T],
        *,
        is_within: bool = False,
    ) -> T:
        """Say something, and learn what rank 0 decides from what all have said.

        However long that takes; but whoever does not come to the call in time is late, unless it
        ``is_within`` one to which all have come.

        ``say`` and, on rank 0, ``decide`` may raise: then this rank raises that, and all others
        RanksError with it as ``error``. ``call`` is what the user called, as messages name it.

        Raises:
            RanksError: a rank failed, is not alive, makes another call, or none in time.
        """
        self._check_in_step(call)
        self._count += 1
        number = self._count
        seconds = None if is_within else self.patience
        if self.leads:
            self._board.post(f"{self._name}/{number}/here", call)
        try:
            note = _Note(call, say())
        except BaseException as error:
            if self.leads:
                self._answer(number, _Answer(None, letters.failed_on(0, error)))
            else:
                self._board.post(
                    f"{self._name}/{number}/failed", (self.rank, letters.as_letter(error))
                )
            raise
        if self.leads:
            return self._decided(number, note, decide, seconds)
        self._board.post(f"{self._name}/{number}/{self.rank}", note)
        answer = self._learned(number, call, seconds)
        self._board.remove(f"{self._name}/{number}/{self.rank}")  # rank 0 has read it
        return cast(T, answer)

    def _decided(
        self,
        number: int,
        own: _Note,
        decide: Callable[[list[Any]], T],
        seconds: float | None,
    ) -> T:
        try:
            said = self._collected(number, own, seconds)
            made = decide([note.value for note in said])
        except BaseException as error:
            told = error if isinstance(error, RanksError) else letters.failed_on(0, error)
            self._answer(number, _Answer(None, told))
            if isinstance(error, RanksError) and error.error is None:
                self._broken = error  # some were elsewhere: nobody knows where they are now
            raise
        self._answer(number, _Answer(made, None))
        return made

    def _collected(self, number: int, own: _Note, seconds: float | None) -> list[_Note]:
        keys = {rank: f"{self._name}/{number}/{rank}" for rank in range(1, self.size)}
        self._board.wait(
            keys,
            seconds,
            lambda ranks: letters.late(ranks, own.call, self.size, self.patience),
            until=lambda: self._find_failure(number),
        )
        if number > 1:
            for key in ("here", "answer"):  # all have read them, as they have come here
                self._board.remove(f"{self._name}/{number - 1}/{key}")
        found = [own, *(self._board.read(key) for key in keys.values())]
        for rank, note in enumerate(found):
            if note.call != own.call:
                raise letters.elsewhere(rank, note.call, own.call)
        return found

    def _find_failure(self, number: int) -> None:
        """Raise what went wrong on some rank, whoever else is late."""
        if self._board.has(f"{self._name}/{number}/failed"):
            rank, error = self._board.read(f"{self._name}/{number}/failed")
            raise letters.failed(rank, error)

    def _learned(self, number: int, call: str, seconds: float | None) -> Any:
        key = f"{self._name}/{number}/answer"
        try:
            if seconds is not None:
                here = f"{self._name}/{number}/here"
                self._board.wait(
                    {0: here},
                    seconds + _LONGER,
                    lambda ranks: letters.late(ranks, call, self.size, seconds + _LONGER),
                )
            self._board.wait({0: key}, None, letters.lost)
        except RanksError as error:
            self._broken = error
            raise
        answer: _Answer = self._board.read(key)
        if answer.error is not None:
            if answer.error.error is None:
                self._broken = answer.error
            raise answer.error
        return answer.value

    def _check_in_step(self, call: str) -> None:
        if self._broken is not None:
            raise RanksError(
                f"{call} was called, and the ranks of this training are out of step",
                found=self._broken.what,
                cure="Start the job again: it goes on from the last checkpoint.",
            ) from self._broken

    def _answer(self, number: int, answer: _Answer) -> None:
        self._board.post(f"{self._name}/{number}/answer", answer)

    def together(self, call: str, work: Callable[[Callable[[object], None]], T]) -> T:
        """Do something on all ranks or on none.

        ``work`` gets a function, and calls it where nothing has changed yet and all that can go
        wrong has been tried, with what must be the same on all ranks: it returns when every rank
        has come so far.

        Raises:
            RanksError: another rank failed, or has something else: before that call nothing has
                changed here either.
        """
        is_ready = False

        def ready(what: object) -> None:
            nonlocal is_ready
            is_ready = True
            self.agree(call, lambda: what, letters.check_same, is_within=True)

        self.agree(call, _nothing, _nothing)
        try:
            made = work(ready)
            if not is_ready:
                ready(None)
        except RanksError:
            raise
        except BaseException as error:
            where = f"{call}, to its end" if is_ready else call
            self.agree(where, _raising(error), _nothing, is_within=True)
            raise
        self.agree(f"{call}, to its end", _nothing, _nothing, is_within=True)
        return made

    def part(self, call: str) -> None:
        """Wait for the others where nothing is left to do: one of them may keep the store."""
        try:
            self.agree(call, _nothing, _nothing, is_within=True)
        except RanksError as error:
            log.debug("not all ranks came to the end of %s: %s", call, error.what)

    # What one rank says whenever it comes to it.

    def tell(self, key: str, value: Any) -> None:
        """Leave a value for the others, which they ``hear``."""
        self._board.post(f"{self._name}/{key}", value)

    def is_told(self, key: str) -> bool:
        """Whether somebody has left a value."""
        return self._board.has(f"{self._name}/{key}")

    def hear(self, key: str, *, of: int = 0, seconds: float | None = None) -> Any:
        """Wait for a value for as long as the rank that tells it lives, or for so many seconds.

        Raises:
            RanksError: that one has ended, or does not tell it in time.
        """
        keys = {of: f"{self._name}/{key}"}
        self._board.wait(keys, seconds, lambda ranks: letters.silent(ranks, seconds or 0.0))
        return self._board.read(f"{self._name}/{key}")

    def hear_all(self, key: Callable[[int], str], *, until: Callable[[], object]) -> list[Any]:
        """What all ranks but 0 have told, each under its ``key``, as long as they live.

        ``until`` is called again and again meanwhile, and may raise.

        Raises:
            RanksError: one of them has ended.
        """
        keys = {rank: f"{self._name}/{key(rank)}" for rank in range(1, self.size)}
        self._board.wait(keys, None, letters.lost, until=until)
        return [self._board.read(each) for each in keys.values()]

    def follow(self, key: str, wanted: Callable[[Any], bool]) -> Any:
        """Wait for a value of rank 0 that is wanted; it writes one in place of the other.

        Raises:
            RanksError: it has ended.
        """
        return self._board.follow(
            f"{self._name}/{key}", wanted, _LONGEST, lambda ranks: letters.silent(ranks, _LONGEST)
        )

    def forget(self, key: str) -> None:
        """Take a value away that was told, and that everyone has heard."""
        self._board.remove(f"{self._name}/{key}")


def _nothing(*_: Any) -> None:
    return None


def _raising(error: BaseException) -> Callable[[], Any]:
    def say() -> Any:
        raise error

    return say
