"""When a handler of SIGCHLD is called: not within a save, and quietly while leaving."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch

import holdfast
from holdfast.saving import workers


class KilledError(RuntimeError):
    """What PyTorch's handler says of a worker."""


def complain(number: int, frame: FrameType | None) -> None:
    raise KilledError("DataLoader worker (pid 7) is killed by signal: Terminated. ")


@pytest.fixture
def handler() -> Iterator[None]:
    saved = signal.signal(signal.SIGCHLD, complain)
    yield
    signal.signal(signal.SIGCHLD, saved)


class Child:
    """A part whose child ends while its state is taken."""

    def __init__(self) -> None:
        self.ends = False

    def state_dict(self) -> dict[str, int]:
        if self.ends:
            signal.raise_signal(signal.SIGCHLD)
        return {"a": 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


@pytest.mark.usefixtures("handler")
def test_a_handler_is_called_right_after_the_block() -> None:
    done = []

    def save() -> None:
        with workers.deferred():
            signal.raise_signal(signal.SIGCHLD)
            done.append(1)

    with pytest.raises(KilledError):
        save()
    assert done == [1]
    assert signal.getsignal(signal.SIGCHLD) is complain
    with workers.deferred():
        pass
    assert signal.getsignal(signal.SIGCHLD) is complain


def test_handlers_of_the_system_stay() -> None:
    saved = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with workers.deferred():
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
            signal.raise_signal(signal.SIGCHLD)
        workers.expect_end()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, saved)


@pytest.mark.usefixtures("handler")
def test_another_thread_changes_no_handler() -> None:
    seen = []

    def look() -> None:
        with workers.deferred():
            seen.append(signal.getsignal(signal.SIGCHLD))
        workers.expect_end()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [complain]
    assert signal.getsignal(signal.SIGCHLD) is complain


@pytest.mark.usefixtures("handler")
def test_a_worker_that_dies_while_its_step_is_saved_does_not_lose_the_step(tmp_path: Path) -> None:
    model, child = torch.nn.Linear(2, 2), Child()
    run = holdfast.Run(tmp_path, model=model, child=child)
    child.ends = True
    with pytest.raises(KilledError):
        run.save(3)
    run.close()
    assert [entry.step for entry in holdfast.Run(tmp_path).checkpoints()] == [3]


@pytest.mark.usefixtures("handler")
def test_while_leaving_it_is_said_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "holdfast"):
        workers.expect_end()
        workers.expect_end()
        signal.raise_signal(signal.SIGCHLD)
    assert [record.getMessage() for record in caplog.records] == [
        "while stopping: DataLoader worker (pid 7) is killed by signal: Terminated. "
    ]


LATE = """
import os, signal, sys, time
import torch, holdfast
from torch.utils.data import DataLoader

class Zeros(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i): return torch.zeros(1)

loader = iter(DataLoader(Zeros(), num_workers=1))
next(loader)
worker = loader._workers[0].pid

try:
    with holdfast.Run(sys.argv[1], model=torch.nn.Linear(2, 2)) as run:
        for step in run.steps(5):
            signal.raise_signal(signal.SIGTERM)
            run.save()
finally:
    # The worker dies while the process leaves. Of its parent's signal it would end in peace.
    os.system(f"kill {worker}")
    time.sleep(0.5)
"""


def test_a_worker_that_dies_late_changes_no_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LATE, os.fspath(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 75, ended.stderr
    assert "Traceback" not in ended.stderr
