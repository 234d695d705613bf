"""Stopping: a signal sets a flag, the step ends and is saved, then the process leaves.

SIGTERM and SIGUSR1 are how schedulers announce the end, SIGINT is Ctrl-C. Handlers do nothing but
note the signal and wake a thread (saving inside a handler would save half a step).
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from types import FrameType
from typing import Any

from holdfast.saving import workers

log = logging.getLogger("holdfast")

#: "Try again later" (EX_TEMPFAIL): what a job that was stopped and saved exits with.
EXIT_STOPPED = 75

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


class StopSignals:
    """The stop signals of this process, while installed.

    Only the main thread can install handlers; elsewhere a warning is logged and no signal is seen.
    The former handlers come back with ``restore``, and in every forked child.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._warned_of_thread = False

    @property
    def is_installed(self) -> bool:
        """Whether the handlers are in place."""
        return bool(self._former)

    def begin(self) -> None:
        """Listen for a loop that begins: a signal that ended a former one does not end it."""
        if not self.is_installed:
            self.received = None
        self.install()

    def install(self) -> None:
        """Put the handlers in place; nothing happens when they are."""
        if self.is_installed:
            return
        if threading.current_thread() is not threading.main_thread():
            if not self._warned_of_thread:
                self._warned_of_thread = True
                log.warning(
                    "this Run is used outside the main thread, where signals cannot be handled: "
                    "SIGTERM will stop the process without a last save"
                )
            return
        self._start_watching()
        for name in _NAMES:
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                self._former[number] = signal.signal(number, self._on_signal)
        _installed.append(self)

    def restore(self) -> None:
        """Give the former handlers back; nothing happens when none were installed.

        A signal that came meanwhile stays noted in ``received``.
        """
        if not self.is_installed:
            return
        above = next((s for s in _installed if s._follows(self)), None)
        if above is not None:  # it goes on, and one day gives back what was there before both
            above._former = dict(self._former)
        else:
            self._put_back()
        self._former = {}
        _installed.remove(self)
        self._wakes.put(False)

    def leave(self) -> BaseException:
        """The exception that ends the process the way the signal asks for; it is done with then."""
        workers.expect_end()
        received, self.received = self.received, None
        return KeyboardInterrupt() if received == signal.SIGINT else SystemExit(EXIT_STOPPED)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C leaves at once
        if self.received is None or number == signal.SIGINT:
            self.received = signal.Signals(number)
        self._wakes.put(True)

    def _start_watching(self) -> None:
        """Start the thread that warns when the step outlasts the grace after a signal.

        It is started beforehand and woken through a queue whose ``put`` is reentrant: a handler
        runs between any two instructions, where starting a thread or logging could deadlock.
        """
        self._wakes = queue.SimpleQueue()
        threading.Thread(
            target=_watch, args=(self._wakes, self.grace), name="holdfast-signals", daemon=True
        ).start()

    def _put_back(self) -> None:
        for number, former in self._former.items():
            # None: the former handler was not set from Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if former is None else former)

    def _follows(self, other: StopSignals) -> bool:
        """Whether the handlers of ``other`` are those that this one has replaced."""
        return any(getattr(h, "__self__", None) is other for h in self._former.values())

    def _forget(self) -> None:
        """In a forked child: the former handlers, so that it can be stopped like any other."""
        self._put_back()
        self._former = {}
        self.received = None


def _watch(wakes: queue.SimpleQueue[bool], grace: float) -> None:
    """Wait for a signal (True) or the end (False); warn when the end is late."""
    if not wakes.get():
        return
    end = time.monotonic() + grace
    while (left := end - time.monotonic()) > 0:
        try:
            if not wakes.get(timeout=left):
                return
        except queue.Empty:
            break
    log.warning(
        "the step is still running %g s after the signal to stop; it is saved when it ends. "
        "If the job is killed before that, it goes on from the last checkpoint. "
        "Shorter steps help; grace= sets when this is said.",
        grace,
    )


#: In the order in which they were installed.
_installed: list[StopSignals] = []


#: The signal mask of the thread that forks, while it does.
_forking = threading.local()


def _hold_back() -> None:
    """Before a fork: hold the signals back until the child has its handlers.

    Python drops, in a child, whatever came before its own hooks ran: ``start(); terminate()``
    would leave a child that nothing ends.
    """
    if _installed and hasattr(signal, "pthread_sigmask"):
        numbers = {getattr(signal, name) for name in _NAMES}
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _let_through() -> None:
    mask = vars(_forking).pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    for signals in reversed(_installed):
        signals._forget()
    _installed.clear()
    _let_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_back, after_in_parent=_let_through, after_in_child=_forget_in_child
    )
