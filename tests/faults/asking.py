"""How tests ask for a fault: a process of its own, forked into one for each case."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults.kills import Outcome

ROOT = Path(__file__).parents[2]


class Server:
    """What does one fault after the other; it ends with whoever asks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.run", "serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.end)

    def ask(self, *options: str, seconds: float) -> tuple[int, str]:
        """The exit code of a fault, and what it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([options, dict(os.environ)]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError("what does the faults has ended") from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self.end()
                raise TimeoutError(f"{' '.join(options)}: no answer in {seconds} s")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("what does the faults has ended")
        code, said = json.loads(answer)
        return code, said

    def end(self) -> None:
        """End it, with all that it has started; one that waits cleans up before."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(2)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@functools.cache
def server() -> Server:
    return Server()


def outcome_of(fault: str, saver: str, size: str, *options: str, seconds: float = 280) -> Outcome:
    """What came of a fault, done to a saver in every case that the options leave."""
    try:
        code, said = server().ask(fault, saver, size, *options, seconds=seconds)
    except (RuntimeError, TimeoutError):
        server.cache_clear()  # the next one asks another
        raise
    assert code == 0, said
    return Outcome(**json.loads(said.splitlines()[-1]))


def check(outcome: Outcome, *, at_least: int) -> None:
    """Nothing went wrong, in as many cases as there should be, nearly all of which happened."""
    assert outcome.wrong == {}
    assert outcome.happened >= at_least
    assert outcome.happened >= 0.8 * outcome.cases  # threads share work as they will
