"""What the tests of stopping share: a training that is talked to, line by line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

#: Seconds after which a training is killed that nobody has ended.
LIMIT = 90


class Training:
    """A process whose output is read line by line, and that waits for what is written to it."""

    def __init__(self, *command: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        # What a test waits for in vain would keep it waiting for ever.
        self._limit = threading.Timer(LIMIT, self.kill)
        self._limit.start()

    def read_until(self, wanted: str) -> str:
        """Read up to a line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(wanted):
                return line
        pytest.fail(f"{wanted!r} never came: {self.process.communicate()[1]}")

    def complaint(self) -> str:
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line, "it ended, or was ended for saying nothing more"
        return line

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")

    def ask(self, command: str) -> str:
        self.tell(command)
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """Kill it and the processes it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """How it left, and what it said on stderr."""
        _, complaints = self.process.communicate()
        self._limit.cancel()
        return self.process.returncode, complaints


@pytest.fixture
def start() -> Iterator[Callable[..., Training]]:
    """Start a script of this folder; what still runs at the end of the test is killed."""
    started = []

    def start_one(script: str, *arguments: object) -> Training:
        started.append(Training(HERE / script, *arguments))
        return started[-1]

    yield start_one
    for training in started:
        training.kill()
        training.end()
