"""Threads that live as long as the process: they exist before there is work for them.

Pools of ``concurrent.futures`` take no work while the interpreter exits, and no thread can be
started then; a save that is in flight at that moment has to end all the same.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Job:
    """A call that another thread does; ``error`` is what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._ended = threading.Event()
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self._ended.is_set()

    def run(self) -> None:
        """Do the call, here and now."""
        try:
            self._call()
        except BaseException as error:  # whoever waits for it sees it
            self.error = error
        finally:
            del self._call  # with all that it holds on to
            self._ended.set()

    def wait(self) -> None:
        """Return when the call has ended; what it raised is in ``error``."""
        self._ended.wait()


class Threads:
    """A fixed number of daemon threads that do calls in the order they are given.

    A forked child does not have them: it makes threads of its own.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(
                target=_work, args=(self._jobs,), name=f"{name}-{number}", daemon=True
            ).start()

    def submit(self, call: Callable[[], object]) -> Job:
        """Have one of the threads do a call."""
        return self.do(Job(call))

    def do(self, job: Job) -> Job:
        """Have one of the threads do a job."""
        self._jobs.put(job)
        return job


def _work(jobs: queue.SimpleQueue[Job]) -> None:
    while True:
        jobs.get().run()
