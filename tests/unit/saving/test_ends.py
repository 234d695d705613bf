"""However a process ends, and whatever it lacks: a save is finished, or the failure is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_BEGIN = """
import multiprocessing, os, signal, sys, threading, time
import torch
import holdfast

folder = sys.argv[1]
"""


def _run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _BEGIN + script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_forked_child_of_multiprocessing_finishes_its_save(tmp_path) -> None:
    """It leaves by ``os._exit``, and what is registered for the exit is not asked."""
    script = """
def train():
    run = holdfast.Run(folder, model=torch.nn.Linear(1500, 1500))
    run.save(0)

child = multiprocessing.get_context("fork").Process(target=train)
child.start()
child.join()
sys.exit(child.exitcode)
"""
    assert _run(script, tmp_path).returncode == 0
    assert list(torch.load(tmp_path / "step-00000000.pt")["model"]) == ["weight", "bias"]


def test_an_interruption_while_the_exit_waits_is_no_success(tmp_path) -> None:
    script = """
fsync = os.fsync
os.fsync = lambda fd: (time.sleep(3), fsync(fd))
run = holdfast.Run(folder, model=torch.nn.Linear(1000, 1000))
run.save(0)

def interrupt():
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
"""
    done = _run(script, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "SaveFailedError: the save of step 0 has failed\n"
        "  found KeyboardInterrupt\n"
        "  The checkpoints before it are still there.\n"
    )


def test_threads_that_write_are_there_before_the_exit_begins(tmp_path) -> None:
    """From Python 3.12 on none can be started then; here that is so from the call on."""
    script = """
run = holdfast.Run(folder, model=torch.nn.Linear(2500, 2500))
run.save(0)

def refuse(*_, **__):
    raise RuntimeError("can't create new thread at interpreter shutdown")

threading._start_new_thread = refuse
"""
    done = _run(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "step-00000000.pt").exists()


def test_what_is_large_can_be_read_while_the_interpreter_exits(tmp_path) -> None:
    """Pools take no work then, and from Python 3.12 on no thread can be started either."""
    script = """
import atexit

model = torch.nn.Linear(2300, 2300)
holdfast.save_state(folder + "/large.pt", model=model)

def last():
    assert torch.equal(holdfast.load(folder + "/large.pt")["model"]["weight"], model.weight)
    holdfast.load_state(folder + "/large.pt", model=model)
    assert holdfast.verify(folder + "/large.pt").ok
    print("read", end=" ", flush=True)

def refuse(*_, **__):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def without_threads():
    threading.Thread.start = refuse
    last()

atexit.register(without_threads)
atexit.register(last)
"""
    done = _run(script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read read ", "")


def test_where_no_thread_can_be_started_the_training_waits(tmp_path) -> None:
    script = """
def refuse(*_, **__):
    raise RuntimeError("can't start new thread")

run = holdfast.Run(folder, model=torch.nn.Linear(2500, 2500))
threading._start_new_thread = refuse
for step in range(2):
    assert run.save(step).done
"""
    done = _run(script, tmp_path)
    assert done.returncode == 0
    assert "no thread can be started to write with: can't start new thread" in done.stderr
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_failure_at_the_exit_is_one_though_nobody_reads_of_it(tmp_path) -> None:
    script = """
import errno
run = holdfast.Run(folder, model=torch.nn.Linear(1000, 1000))

def fail(fd):
    time.sleep(1)
    raise OSError(errno.EIO, "Input/output error")

os.fsync = fail
run.save(0)
sys.stdout.close()
sys.stdout = sys.stderr = None
"""
    assert _run(script, tmp_path).returncode == 1


def test_a_failure_at_the_exit_leaves_what_others_do_there_alone(tmp_path) -> None:
    """What was registered before holdfast is called after it; daemon children are ended."""
    script = """
import errno

def work():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    print(child.pid, flush=True)

def fail(fd):
    time.sleep(0.5)
    raise OSError(errno.EIO, "Input/output error")

work()
os.fsync = fail
holdfast.Run(folder, model=torch.nn.Linear(1000, 1000)).save(0)
"""
    early = 'import atexit\natexit.register(lambda: print("called last", end=""))\n'
    command = [sys.executable, "-c", early + _BEGIN + script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("SaveFailedError: the save of step 0 has failed")
    pid, called = done.stdout.splitlines()
    assert called == "called last"
    assert not _runs(int(pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_failure_at_the_exit_of_a_child_is_its_status(method, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        _BEGIN
        + """
def fail(fd):
    time.sleep(0.5)
    raise OSError(5, "Input/output error")

def train(folder):
    run = holdfast.Run(folder, model=torch.nn.Linear(1000, 1000))
    run.save(0, wait=True)
    os.fsync = fail
    run.save(1)
    print("trained", flush=False)

if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[2]).Process(target=train, args=(folder,))
    child.start()
    child.join()
    sys.exit(40 + child.exitcode)
"""
    )
    command = [sys.executable, str(script), str(tmp_path / "run"), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (41, "trained\n")
    assert "SaveFailedError: the save of step 1 has failed" in done.stderr


def test_a_storage_that_shrinks_before_its_copy_fails_that_save(tmp_path) -> None:
    """As sharded training frees parameters; a copy of the planned size would read beyond it."""
    script = """
from holdfast.saving import background

model = torch.nn.Linear(300, 300)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run = holdfast.Run(folder, model=model, optimizer=optimizer, background="overlap")
background._thread().submit(lambda: time.sleep(1))  # the thread is late
pending = run.save(0)
model.weight.untyped_storage().resize_(0)
try:
    pending.wait()
except holdfast.errors.CaptureError as error:
    print(error.what)
"""
    done = _run(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a storage changed its size between the save and its copy\n"
    assert not list(tmp_path.glob("*.pt"))
