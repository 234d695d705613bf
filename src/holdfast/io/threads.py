"""Threads for saving and for reading, which work while the interpreter exits, too.

Pools of ``concurrent.futures`` take no work then, and from Python 3.12 on no thread can be started:
those that save exist before there is work for them, and who reads does without.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Job:
    """A call that another thread does; ``error`` is what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._ended = threading.Event()
        self._claim = threading.Lock()
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self._ended.is_set()

    def run(self) -> None:
        """Do the call, here and now, unless somebody does or has done it: it is done once."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._call()
        except BaseException as error:  # whoever waits for it sees it
            self.error = error
        del self._call  # with all that it holds on to, and what the frames of its error do
        _let_go(self.error)
        self._ended.set()

    def drop(self) -> None:
        """Let nobody do it who has not begun: it has ended."""
        if self._claim.acquire(blocking=False):
            self._ended.set()

    def wait(self) -> None:
        """Return when the call has ended; what it raised is in ``error``."""
        self._ended.wait()


def _let_go(error: BaseException | None) -> None:
    """Drop what the calls that an error came through had in hand: gigabytes, of a save."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Threads:
    """A fixed number of daemon threads that do calls in the order they are given.

    Raises:
        RuntimeError: not all of them can be started; then none is.

    A forked child does not have them: it makes threads of its own.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        for number in range(count):
            thread = threading.Thread(
                target=_work, args=(self._jobs,), name=f"{name}-{number}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # none, or as many as were asked for
                for _ in range(number):
                    self._jobs.put(None)
                raise

    def submit(self, call: Callable[[], object]) -> Job:
        """Have one of the threads do a call."""
        return self.do(Job(call))

    def do(self, job: Job) -> Job:
        """Have one of the threads do a job."""
        self._jobs.put(job)
        return job


def _work(jobs: queue.SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()


def each_of(call: Callable[[_Item], _Found], items: Sequence[_Item], count: int) -> list[_Found]:
    """What a call gives for each item, by up to ``count`` threads that end with this.

    The caller waits; where no thread can be started it works itself. Whatever is raised, in a
    thread or by an interruption, stops the rest, and nothing runs any more when this returns.

    Raises:
        BaseException: what the call raised for the first of the items it raised anything for.
    """
    share = _Share(call, items)
    try:
        if _start(min(count, len(items)), share.work) == 0:
            return [call(item) for item in items]
        share.wait()
    finally:
        share.stop()
        share.wait()
    return share.found()


class _Share(Generic[_Item, _Found]):
    """The work that several threads take in turns, in the order of the items."""

    def __init__(self, call: Callable[[_Item], _Found], items: Sequence[_Item]) -> None:
        self._call = call
        self._items = iter(enumerate(items))
        self._left = len(items)
        self._running = 0
        self._changed = threading.Condition()
        self._found: dict[int, _Found] = {}
        self._errors: dict[int, BaseException] = {}

    def work(self) -> None:
        """Do what is left, until nothing is or something was raised."""
        while (taken := self._take()) is not None:
            number, item = taken
            try:
                self._found[number] = self._call(item)
            except BaseException as error:  # whoever waits raises it
                self._errors[number] = error
                self.stop()
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _take(self) -> tuple[int, _Item] | None:
        with self._changed:
            if self._left == 0:
                return None
            self._left -= 1
            self._running += 1
            return next(self._items)

    def stop(self) -> None:
        """Let no thread take more, whether it has begun or not."""
        with self._changed:
            self._left = 0

    def wait(self) -> None:
        """Return when nothing is left and nothing runs.

        Threads are not joined: once interrupted, ``join`` takes a running one for ended (3.11).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._left == self._running == 0)

    def found(self) -> list[_Found]:
        """What was found, in the order of the items; raises what was raised."""
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._found[number] for number in sorted(self._found)]


def _start(count: int, work: Callable[[], object]) -> int:
    """Start so many threads; how many could be."""
    for number in range(count):
        try:
            threading.Thread(target=work, name="holdfast-read", daemon=True).start()
        except RuntimeError:  # a limit of the system, or the interpreter exits
            return number
    return count
