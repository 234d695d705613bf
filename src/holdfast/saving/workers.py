"""Loader workers that a stop signal killed: their end breaks off neither a save nor the leaving.

PyTorch's handler of SIGCHLD raises "DataLoader worker is killed" from wherever the main thread is,
to end its waiting for the next batch. In the middle of a save that would lose the step that is
being saved, and on the way out it would make the exit status 1 instead of 75.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

log = logging.getLogger("holdfast")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Call a handler of SIGCHLD not within the block but right after it, if a child ended."""
    former = _handler()
    if former is None:
        yield
        return
    ended = []

    def note(number: int, frame: FrameType | None) -> None:
        ended.append(number)

    signal.signal(signal.SIGCHLD, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGCHLD) is note:
            signal.signal(signal.SIGCHLD, former)
        if ended:
            former(ended[0], None)


def expect_end() -> None:
    """From now on log what a handler of SIGCHLD raises: this process is about to end."""
    former = _handler()
    if former is None or getattr(former, "is_quiet", False):
        return

    def quiet(number: int, frame: FrameType | None) -> None:
        try:
            former(number, frame)
        except RuntimeError as error:
            log.info("while stopping: %s", error)

    quiet.is_quiet = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, quiet)


def _handler() -> Callable[[int, FrameType | None], object] | None:
    """The handler of SIGCHLD that Python calls, where this thread may change it."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return None
    found = signal.getsignal(signal.SIGCHLD)
    return (
        None if found is None or isinstance(found, int) else found
    )  # SIG_DFL and SIG_IGN are ints
