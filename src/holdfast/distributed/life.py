"""Whether another process of a training is alive: its number says so here, elsewhere its signs."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.errors import RanksError

log = logging.getLogger("holdfast")

#: Seconds between two signs of life, and without any after which a process counts as dead.
_EVERY, _SILENCE = 2.0, 60.0


class Life:
    """The signs of this process: who it is, and a count that goes up while it lives."""

    def __init__(self, post: Callable[[str, bytes], None], rank: int) -> None:
        self._post, self._rank = post, rank
        post(f"who/{rank}", f"{_place()} {os.getpid()} {_started(os.getpid())}".encode())
        post(_key(rank), b"0")
        threading.Thread(target=self._go_on, name="holdfast-alive", daemon=True).start()

    def _go_on(self) -> None:
        count = 0
        while True:
            time.sleep(_EVERY)
            count += 1
            try:
                self._post(_key(self._rank), str(count).encode())
            except RanksError as error:  # whoever needs the store says so
                log.debug("no more signs of life: %s", error.what)
                return


class Signs:
    """What is seen of another process."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._who: tuple[str, int, str] | None = None
        self._last: bytes | None = None
        self._seen_at = time.monotonic()

    def are_seen(self, read: Callable[[str], bytes | None]) -> bool:
        """Whether it is alive, as far as can be known; ``read`` gives a note, or None."""
        if self._who is None:
            found = read(f"who/{self._rank}")
            if found is None:  # it has not begun
                return True
            place, pid, started = found.decode().split(" ")
            self._who = place, int(pid), started
        place, number, began = self._who
        if place == _place() and began:
            return _started(number) == began
        sign, now = read(_key(self._rank)), time.monotonic()
        if sign != self._last:
            self._last, self._seen_at = sign, now
        return now - self._seen_at < _SILENCE


def _key(rank: int) -> str:
    return f"alive/{rank}"


def _place() -> str:
    """What tells one set of process numbers from others: the machine since its start, the space."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return socket.gethostname().replace(" ", "")
    return f"{boot}{space}"


def _started(pid: int) -> str:
    """When a process began, as the system counts; "" where it is not there any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
