"""Stop real trainings by signal: the step ends, is saved, and the process says how it left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast

Start = Callable[..., Any]

README = Path(__file__).parents[2] / "README.md"

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
    for _ in range(20):
        assert training.ask("child") == str(-signal.SIGTERM)
    assert training.ask("stop?") == "False"
    training.tell("end")
    training.read_until("all done")
    assert training.end()[0] == 0


TRAIN = """
import logging, os, signal, sys, torch, holdfast
logging.basicConfig(level=logging.INFO)
run = holdfast.Run("run", model=torch.nn.Linear(2, 2))
for step in run.steps(9):
    print(step, flush=True)
    if step in (2, 3, 6):
        os.kill(os.getpid(), signal.SIGTERM)
    if step == int(sys.argv[1] if len(sys.argv) > 1 else -1):
        raise RuntimeError("a real error")
    run.save()
"""


def shell_loop(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the loop of the README, with the Python of this test."""
    (folder / "train.py").write_text(TRAIN)
    loops = [b for b in re.findall(r"```sh\n(.*?)```", README.read_text(), re.S) if "until" in b]
    assert len(loops) == 1
    loop = loops[0].replace("python train.py", f"'{sys.executable}' train.py {' '.join(arguments)}")
    assert loop != loops[0]
    return subprocess.run(
        ["sh", "-c", loop], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_the_shell_loop_of_the_readme_goes_on_until_all_is_done(tmp_path: Path) -> None:
    done = shell_loop(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(step) for step in range(9)]
    assert done.stderr.count("stopping after step") == 3
    assert steps_in(tmp_path / "run") == [6, 7, 8]


def test_the_shell_loop_of_the_readme_ends_at_a_real_error(tmp_path: Path) -> None:
    done = shell_loop(tmp_path, "4")
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]
    assert done.stderr.rstrip().endswith("RuntimeError: a real error")
