"""However a process ends, and whatever it lacks: a save is finished, or the failure is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import holdfast
from holdfast.saving import background

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


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("width", [3, 2500])
def test_a_save_that_is_asked_for_at_the_exit_is_done_there(width, fails, tmp_path) -> None:
    """By whoever registered before holdfast did: after that nobody waits for a thread."""
    script = f"""
def refuse(fd):
    raise OSError(5, "Input/output error")

run = holdfast.Run(folder, keep=None, model=torch.nn.Linear({width}, {width}))
run.save(1, wait=True)
if {fails}:
    os.fsync = refuse
"""
    early = "import atexit\natexit.register(lambda: run.save(2))\n"
    command = [sys.executable, "-c", early + _BEGIN + script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    there = sorted(path.name for path in tmp_path.glob("*.pt"))
    if fails:
        assert done.returncode == 1
        assert "FileError: the checkpoint could not be written" in done.stderr
        assert there == ["step-00000001.pt"]
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert there == ["step-00000001.pt", "step-00000002.pt"]


def test_handlers_of_the_c_library_run_after_a_failure_too(tmp_path) -> None:
    """As those of profilers and loggers in C++ do."""
    script = """
def refuse(fd):
    time.sleep(0.3)
    raise OSError(5, "Input/output error")

run = holdfast.Run(folder, keep=None, model=torch.nn.Linear(1000, 1000))
run.save(1, wait=True)
os.fsync = refuse
run.save(2)
"""
    early = """
import ctypes
library = ctypes.CDLL(None)
library.__cxa_atexit(ctypes.cast(library.abort, ctypes.c_void_p), None, None)
"""
    command = [sys.executable, "-c", early + _BEGIN + script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGABRT


INTERRUPTED = """
run = holdfast.Run(folder, keep=holdfast.keep.latest(1), model=torch.nn.Linear(2500, 2500))
run.save(0, wait=True)
pwrite = os.pwrite

def slow(*args):
    time.sleep(0.8)
    return pwrite(*args)

os.pwrite = slow
run.save(1)
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    run.close()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_a_close_that_is_interrupted_keeps_the_lock_as_long_as_the_save_lasts(tmp_path) -> None:
    """Its thread prunes when it has saved: until then nobody else may have the folder."""
    other = """
import subprocess
code = "import sys, torch, holdfast; " \
    "holdfast.Run(sys.argv[1], model=torch.nn.Linear(2, 2)).save(50)"
done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
print("LockedError" in done.stderr, flush=True)
run.close()
print(sorted(os.listdir(folder)))
"""
    done = _run(INTERRUPTED + other, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "interrupted",
        "True",
        "['.lock', 'step-00000001.pt']",
    ]


def test_nothing_is_pruned_by_who_has_lost_the_lock(tmp_path, caplog) -> None:
    run = holdfast.Run(tmp_path, keep=holdfast.keep.latest(1), model=torch.nn.Linear(3, 3))
    run.save(0, wait=True)
    save = background.Background.submit

    def lost(self, *args):
        (tmp_path / ".lock").unlink()
        return save(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background.Background, "submit", lost)
        run.save(1, wait=True)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    assert caplog.messages[-1] == f"{tmp_path} is not pruned: its lock is not held any more"
    run.close()


def test_a_forked_child_that_steps_waits_for_nothing(tmp_path) -> None:
    """Its optimizer has the hook, and the save is the parent's."""
    script = """
from holdfast.saving import overlap
model = torch.nn.Linear(3000, 3000)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run = holdfast.Run(folder, model=model, optimizer=optimizer, background="overlap")
make, copying = overlap.Copies.make, threading.Event()

def slow(self, key, copy):
    def copied(*args):
        copying.set()
        time.sleep(1)
        return copy(*args)
    make(self, key, copied)

overlap.Copies.make = slow
run.save(0)
copying.wait()
child = os.fork()
if child == 0:
    optimizer.step()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    assert _run(script, tmp_path).returncode == 0


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
