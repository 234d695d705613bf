"""All ranks stop behind the same step, whichever of them was told to."""

from __future__ import annotations

import signal
import time

from holdfast.distributed import letters
from holdfast.distributed.ranks import Ranks

#: Seconds of steps for which rank 0 decides at once, and the most of them: steps may get slower.
_AHEAD = 0.25
_MOST_AHEAD = 20
#: What rank 0 says when it has left the loop: no step comes after that.
_LEFT = 1 << 62


class StopTogether:
    """Asked once behind each step, on every rank; rank 0 decides, and waits for nobody.

    It decides for as many steps at once as take a quarter of a second: then the others need not
    ask each time. None waits for a rank that may itself wait for one: rank 0 goes on as it trains.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._count = 0
        self._next = 1
        self._decided_at, self._decided_count = time.monotonic(), 0
        self._has_told = False
        self._loop = 0

    def begin(self) -> None:
        """A loop begins: what ended a former one does not end it."""
        self._loop += 1
        self._has_told = False
        self._next = self._count + 1

    def stops(
        self, received: signal.Signals | None, *, is_last: bool = False
    ) -> signal.Signals | None:
        """The signal to stop at now, which some rank has received; None to go on.

        Behind the last step it is always asked.

        Raises:
            RanksError: rank 0 has left the loop, or is not alive.
        """
        if received is not None and not self._has_told:
            self._has_told = True
            self._ranks.tell(f"told/{self._loop}", int(received))
        self._count += 1
        if self._count < self._next and not is_last:
            return None
        if self._ranks.leads:
            told, self._next = self._decided()
            self._ranks.tell(self._key, (self._count, self._next, told))
            return None if told is None else signal.Signals(told)
        at, following, told = self._ranks.follow(self._key, lambda said: said[0] >= self._count)
        if at == _LEFT:
            raise letters.left()
        # Rank 0 may be ahead: then it has gone on here, and decides anew where it says.
        self._next = following if at == self._count else at
        return None if told is None or at != self._count else signal.Signals(told)

    def leave(self) -> None:
        """The loop was left before its end: nobody waits for this rank behind a step."""
        if self._ranks.leads:
            self._ranks.tell(self._key, (_LEFT, _LEFT, None))

    def part(self) -> None:
        """The loop has come to its end on this rank: return when it has on all."""
        self._ranks.part("run.steps()")

    @property
    def _key(self) -> str:
        return f"stop/{self._loop}"

    def _decided(self) -> tuple[int | None, int]:
        key = f"told/{self._loop}"
        told = self._ranks.hear(key) if self._ranks.is_told(key) else None
        now = time.monotonic()
        took = (now - self._decided_at) / max(1, self._count - self._decided_count)
        self._decided_at, self._decided_count = now, self._count
        ahead = max(1, min(_MOST_AHEAD, int(_AHEAD / max(1e-6, took))))
        return told, self._count + ahead
