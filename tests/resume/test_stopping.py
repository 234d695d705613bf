"""Stop real trainings by signal: the step ends, is saved, and the process says how it left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast

Start = Callable[..., Any]

LATE = "the step is still running"


def steps_in(folder: Path) -> list[int | None]:
    return [entry.step for entry in holdfast.Run(folder).checkpoints()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_step_ends_and_is_saved_and_the_process_says_try_again(
    tmp_path: Path, start: Start, number: signal.Signals
) -> None:
    training = start("loop.py", tmp_path, 4)
    training.read_until("step 0")
    training.tell("end")
    training.read_until("step 1")
    training.process.send_signal(number)
    assert training.ask("stop?") == "True"
    training.tell("end")
    code, complaints = training.end()
    assert code == 75
    assert f"WARNING stopping after step 1: {number.name}" in complaints.splitlines()
    assert LATE not in complaints
    assert "Traceback" not in complaints
    # `every` said not now, and so step 0 is not there.
    assert steps_in(tmp_path) == [1]
    assert holdfast.Run(tmp_path).latest().metrics == {"loss": 1.0}

    again = start("loop.py", tmp_path, 4)
    again.read_until("step 2")
    again.tell("end\nend")
    again.read_until("all done")
    assert again.end()[0] == 0
    assert steps_in(tmp_path) == [1, 3]


def test_ctrl_c_saves_the_step_and_leaves_as_interrupted(tmp_path: Path, start: Start) -> None:
    training = start("loop.py", tmp_path, 4)
    training.read_until("step 0")
    training.process.send_signal(signal.SIGINT)
    assert training.ask("stop?") == "True"
    training.tell("end")
    code, complaints = training.end()
    assert code == -signal.SIGINT  # Python dies of the signal itself; a shell shows 130
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert steps_in(tmp_path) == [0]


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, start: Start) -> None:
    training = start("loop.py", tmp_path, 4)
    training.read_until("step 0")
    training.process.send_signal(signal.SIGINT)
    assert training.ask("stop?") == "True"
    training.process.send_signal(signal.SIGINT)
    code, complaints = training.end()  # nobody ended the step
    assert code == -signal.SIGINT
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert steps_in(tmp_path) == []


def test_ctrl_c_after_sigterm_leaves_as_interrupted(tmp_path: Path, start: Start) -> None:
    training = start("loop.py", tmp_path, 4)
    training.read_until("step 0")
    for number in (signal.SIGTERM, signal.SIGINT):
        training.process.send_signal(number)
        assert training.ask("stop?") == "True"
    training.tell("end")
    assert training.end()[0] == -signal.SIGINT
    assert steps_in(tmp_path) == [0]


def test_a_shell_shows_130_after_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(INTERRUPTED)
    shell = f"'{sys.executable}' {script} {tmp_path / 'run'}; echo left with $?"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.stdout == "left with 130\n"


INTERRUPTED = """
import signal, sys, torch, holdfast
run = holdfast.Run(sys.argv[1], model=torch.nn.Linear(2, 2))
for step in run.steps(3):
    signal.raise_signal(signal.SIGINT)
    run.save()
"""


def test_a_step_that_outlasts_the_grace_is_warned_of_once(tmp_path: Path, start: Start) -> None:
    training = start("loop.py", tmp_path, 4, 0.05)
    training.read_until("step 0")
    training.process.send_signal(signal.SIGTERM)
    complaints = []
    while not (complaints and LATE in complaints[-1]):
        complaints.append(training.complaint())
    assert complaints[-1].startswith(
        "WARNING the step is still running 0.05 s after the signal to stop; it is saved when it "
        "ends."
    )
    training.process.send_signal(signal.SIGUSR1)
    assert training.ask("stop?") == "True"
    training.tell("end")
    code, rest = training.end()
    assert code == 75
    assert LATE not in rest
    assert steps_in(tmp_path) == [0]


def test_a_child_of_the_training_can_be_terminated(tmp_path: Path, start: Start) -> None:
    training = start("loop.py", tmp_path, 1)
    training.read_until("step 0")
    # A signal that came between the fork and the child's defaults was lost, most of the time.
    assert [training.ask("child") for _ in range(20)] == [str(-signal.SIGTERM)] * 20
    assert training.ask("stop?") == "False"
    training.tell("end")
    training.read_until("all done")
    assert training.end()[0] == 0
