"""All ranks stop behind the same step, whichever of them was told to."""

from __future__ import annotations

import signal
import time

from holdfast.distributed.ranks import Ranks

#: Seconds of steps for which rank 0 decides at once: how late a signal may be noticed.
_AHEAD = 0.25
_MOST_AHEAD = 10_000


class StopTogether:
    """Asked once behind each step, on every rank; rank 0 decides, and waits for nobody.

    It decides for as many steps at once as take a quarter of a second: then the others need not
    ask each time. None waits for a rank that may itself wait for one: rank 0 goes on as it trains.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._count = 0
        self._next = 1
        self._began = time.monotonic()
        self._has_told = False

    def stops(self, received: signal.Signals | None) -> signal.Signals | None:
        """The signal to stop at now, which some rank has received; None to go on."""
        if received is not None and not self._has_told:
            self._has_told = True
            self._ranks.tell("told", int(received))
        self._count += 1
        if self._count < self._next:
            return None
        if self._ranks.leads:
            told, self._next = self._decided()
            self._ranks.tell("stop", (self._count, self._next, told))
            return None if told is None else signal.Signals(told)
        at, following, told = self._ranks.follow("stop", lambda said: said[0] >= self._count)
        # Rank 0 may be ahead: then it has gone on here, and decides anew where it says.
        self._next = following if at == self._count else at
        return None if told is None or at != self._count else signal.Signals(told)

    def _decided(self) -> tuple[int | None, int]:
        told = self._ranks.hear("told") if self._ranks.is_told("told") else None
        seconds = max(1e-6, (time.monotonic() - self._began) / self._count)
        return told, self._count + max(1, min(_MOST_AHEAD, int(_AHEAD / seconds)))
