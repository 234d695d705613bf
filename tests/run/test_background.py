"""Saves behind the training: what happens between a save and its end."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import FileError, SaveFailedError, UsageError
from holdfast.io import memory
from holdfast.io.threads import Threads


@pytest.fixture
def saving():
    """The defaults, instead of both ways of the other tests."""


@pytest.fixture
def gate(monkeypatch):
    """A disk that makes nothing durable before it is let go; it can fail then."""
    fsync = os.fsync

    class Gate(threading.Event):
        error = None

        def fsync(self, fd):
            assert self.wait(timeout=60)
            if self.error is not None:
                raise self.error
            fsync(fd)

    gate = Gate()
    monkeypatch.setattr(os, "fsync", gate.fsync)
    yield gate
    gate.set()


def begin(folder, **options):
    model = nn.Linear(3, 2)
    folder.mkdir(exist_ok=True)
    return model, holdfast.Run(folder, model=model, **options)


def test_save_returns_before_the_checkpoint_is_durable(tmp_path, gate):
    model, run = begin(tmp_path / "run", keep=holdfast.keep.latest(1))
    gate.set()
    run.save(0, wait=True)
    gate.clear()
    before = model.weight.detach().clone()
    pending = run.save(1, metrics={"loss": 2})
    model.weight.data.add_(1)
    assert not pending.done
    assert pending.progress < 1.0
    assert "%" in repr(pending)
    assert holdfast.Run(run.folder).latest().step == 0  # neither moved nor pruned
    gate.set()
    info = pending.result()
    assert pending.done
    assert pending.progress == 1.0
    assert repr(pending) == "PendingSave(step=1, durable)"
    assert info.nbytes == Path(info.path).stat().st_size
    assert [entry.step for entry in holdfast.Run(run.folder).checkpoints()] == [1]
    assert torch.equal(holdfast.load(info.path)["model"]["weight"], before)
    run.close()


def test_the_runs_own_lists_wait_for_the_save_in_flight(tmp_path, gate):
    _, run = begin(tmp_path / "run")
    run.save(0, metrics={"loss": 1})
    threading.Timer(0.2, gate.set).start()
    assert run.latest().step == 0
    assert run.best("loss", "min").step == 0
    run.close()


@pytest.mark.parametrize(
    "act",
    [
        lambda run: run.wait(),
        lambda run: run.close(),
        lambda run: run.resume(),
        lambda run: run.prune(),
        lambda run: run.pin("latest"),
    ],
)
def test_whatever_needs_the_disk_waits_for_the_save_in_flight(tmp_path, gate, act):
    _, run = begin(tmp_path / "run")
    pending = run.save(0)
    threading.Timer(0.2, gate.set).start()
    assert not pending.done
    act(run)
    assert pending.done
    run.close()


def test_one_save_is_in_flight_and_the_next_says_how_long_it_waited(tmp_path, gate):
    _, run = begin(tmp_path / "run")
    first = run.save(0)
    threading.Timer(0.3, gate.set).start()
    second = run.save(1)
    assert first.done
    assert first.waited < 0.1
    assert 0.2 < second.waited < 5
    run.close()
    assert [entry.step for entry in run.checkpoints()] == [0, 1]


def test_every_checkpoint_is_the_state_at_its_call(tmp_path):
    """A thread trains hard while saves run: parameters, buffers and momenta all change."""
    model = nn.Sequential(nn.Linear(1000, 1000), nn.BatchNorm1d(1000))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    lock, over = threading.Lock(), threading.Event()

    def train():
        while not over.is_set():
            with lock:
                optimizer.zero_grad()
                model(torch.randn(8, 1000)).square().mean().backward()
                optimizer.step()

    thread = threading.Thread(target=train)
    run = holdfast.Run(tmp_path, model=model, optimizer=optimizer, keep=None)
    wanted = {}
    thread.start()
    for step in range(12):
        time.sleep(0.02)
        with lock:
            run.save(step)
            wanted[step] = holdfast.snapshot(model=model, optimizer=optimizer)
    over.set()
    thread.join()
    run.close()
    for step, was in wanted.items():
        was.restore()
        saved = holdfast.load(f"{tmp_path}@{step}")
        for name, value in model.state_dict().items():
            assert torch.equal(saved["model"][name], value), (step, name)
        for index, state in optimizer.state_dict()["state"].items():
            momentum = saved["optimizer"]["state"][index]["momentum_buffer"]
            assert torch.equal(momentum, state["momentum_buffer"]), (step, index)


def test_the_bytes_are_those_of_a_save_in_the_foreground(tmp_path):
    states = []
    for background in (True, False):
        model = nn.Linear(600, 600)
        torch.nn.init.constant_(model.weight, 0.5)
        torch.nn.init.constant_(model.bias, 0.25)
        folder = tmp_path / str(background)
        torch.manual_seed(3)
        with holdfast.Run(folder, model=model, background=background) as run:
            run.save(0)
        index = holdfast.open(folder / "step-00000000.pt").index
        data = (folder / "step-00000000.pt").read_bytes()
        states.append({k: data[e.offset : e.offset + e.nbytes] for k, e in index.extents.items()})
        assert holdfast.verify(folder).ok
    assert states[0] == states[1]
    assert len(states[0]) > 2


def test_a_failure_surfaces_at_the_next_call_and_the_step_can_be_saved_again(tmp_path, gate):
    _, run = begin(tmp_path / "run", every=holdfast.every(steps=10))
    gate.set()
    run.save(10, wait=True)
    gate.error = OSError(5, "Input/output error")
    pending = run.save(20)
    while not pending.done:
        time.sleep(0.01)
    assert repr(pending) == "PendingSave(step=20, failed)"
    with pytest.raises(SaveFailedError) as caught:
        run.save(21)  # not even due
    assert str(caught.value).splitlines()[0] == (
        "the save of step 20 has failed: the checkpoint could not be written: Input/output error"
    )
    assert isinstance(caught.value.__cause__, FileError)
    assert caught.value.cure
    gate.error = None
    assert run.save(20, wait=True).done
    run.close()
    entries = run.checkpoints()
    assert [entry.step for entry in entries] == [10, 20]
    assert entries[1].record.parent == entries[0].id


@pytest.mark.parametrize("act", [lambda r: r.wait(), lambda r: r.close(), lambda r: r.resume()])
def test_a_failure_surfaces_once(tmp_path, gate, act):
    _, run = begin(tmp_path / "run")
    run.resume()
    gate.error = OSError(5, "Input/output error")
    run.save(0)
    gate.set()
    with pytest.raises(SaveFailedError, match="the save of step 0 has failed"):
        act(run)
    gate.error = None
    run.wait()
    assert run.save(0, wait=True).done
    run.close()


def test_who_asks_the_pending_save_gets_the_error_itself_and_nobody_else(tmp_path, gate):
    _, run = begin(tmp_path / "run")
    run.resume()
    gate.error = OSError(5, "Input/output error")
    pending = run.save(0)
    gate.set()
    for ask in (pending.wait, pending.result, pending.wait):
        with pytest.raises(FileError, match="Input/output error"):
            ask()
    gate.error = None
    run.wait()
    assert run.save(0, wait=True).done
    run.close()


def test_the_loop_does_not_end_before_the_last_save_is_durable(tmp_path, gate):
    _, run = begin(tmp_path / "run")
    threading.Timer(0.3, gate.set).start()
    for _ in run.steps(1):
        run.save()
        assert not gate.is_set()
    assert (tmp_path / "run" / "step-00000000.pt").exists()
    run.close()


def test_what_ended_the_block_is_not_hidden_by_a_save_that_failed(tmp_path, gate, caplog):
    gate.error = OSError(5, "Input/output error")
    model = nn.Linear(1, 1)
    (tmp_path / "run").mkdir()

    def train():
        with holdfast.Run(tmp_path / "run", model=model) as run:
            run.save(0)
            gate.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "the save of step 0 has failed" in caplog.text


def test_a_new_run_on_the_folder_finishes_the_old_one(tmp_path, gate, caplog):
    _, first = begin(tmp_path / "run")
    first.save(0)
    threading.Timer(0.2, gate.set).start()
    model, second = begin(tmp_path / "run")
    assert second.resume() == 1
    gate.clear()
    gate.error = OSError(5, "Input/output error")
    second.save(1)
    gate.set()
    with pytest.raises(UsageError, match="was replaced by a newer one"):
        first.save(1)
    third = holdfast.Run(tmp_path / "run", model=model)
    assert third.resume() == 1
    assert "the save of step 1 has failed" in caplog.text
    third.close()


def test_without_memory_for_a_copy_saves_are_done_at_once_and_that_is_said(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    _, run = begin(tmp_path / "run")
    for step in range(3):
        assert run.save(step).done
    run.close()
    said = [r.getMessage() for r in caplog.records if "no memory" in r.getMessage()]
    assert said == [
        "there is no memory for a copy of the state (0 MiB wanted, 0 MiB free): the training waits "
        "for each save. To have it so without this warning: Run(..., background=False)."
    ]


def test_the_memory_grows_with_the_state_and_is_given_back_at_close(tmp_path):
    model = nn.Linear(10, 10)
    run = holdfast.Run(tmp_path, model=model)
    run.save(0)
    small = run._writer._background._arena
    run.save(1)
    assert run._writer._background._arena is small
    memory_of_it = weakref.ref(small._mapping)
    del small
    model.weight = nn.Parameter(torch.randn(1000, 1000))
    run.save(2)
    assert memory_of_it() is None  # never are two there
    large = run._writer._background._arena
    assert large.nbytes > 4_000_000
    memory_of_it = weakref.ref(large._mapping)
    del large
    run.close()
    assert run._writer._background._arena is None
    assert memory_of_it() is None
    assert torch.equal(holdfast.load(f"{tmp_path}@2")["model"]["weight"], model.weight)


@pytest.mark.parametrize("name", ["HOLDFAST_WRITER_THREADS", "HOLDFAST_WRITE_BUFFER_MIB"])
def test_a_setting_that_makes_no_sense_is_an_error_where_the_run_is_made(
    tmp_path, monkeypatch, name
):
    begin(tmp_path / "run")[1].save(0, wait=True)
    monkeypatch.setenv(name, "some")
    with pytest.raises(UsageError, match=name):
        begin(tmp_path / "run")
    assert holdfast.Run(tmp_path / "run").latest().step == 0  # one that reads needs none of them


def test_a_failed_save_that_is_kept_keeps_none_of_its_memory(tmp_path, gate):
    """The frames of an error's traceback hold on to the image, and the image to gigabytes."""
    _, run = begin(tmp_path / "run")
    gate.error = OSError(5, "Input/output error")
    pending = run.save(0)
    memory_of_it = weakref.ref(run._writer._background._arena._mapping)
    gate.set()
    with pytest.raises(SaveFailedError) as caught:
        run.wait()
    run.close()
    assert memory_of_it() is None
    assert pending.done
    assert isinstance(caught.value.__cause__, FileError)


SCRIPT = """
import os, sys, time
import torch, holdfast
fsync = os.fsync
def slow(fd):
    time.sleep(0.5)
    if sys.argv[3] == "fails":
        raise OSError(5, "Input/output error")
    fsync(fd)
os.makedirs(sys.argv[1], exist_ok=True)
width = int(sys.argv[4])
run = holdfast.Run(sys.argv[1], model=torch.nn.Linear(width, width))
run.resume()
os.fsync = slow
pending = run.save(7)
assert not pending.done
del run, pending
{"end": lambda: None, "exit": lambda: sys.exit(75), "raise": lambda: 1 / 0}[sys.argv[2]]()
"""


#: 2,000 times 2,000 numbers are written by threads, past the page cache.
WIDTHS = pytest.mark.parametrize("width", ["2", "2000"], ids=["small", "large"])


@WIDTHS
@pytest.mark.parametrize(("how", "status"), [("end", 0), ("exit", 75), ("raise", 1)])
def test_a_save_in_flight_at_exit_comes_to_its_end(tmp_path, how, status, width):
    command = [sys.executable, "-c", SCRIPT, tmp_path / "run", how, "works", width]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status, ended.stderr
    assert [entry.step for entry in holdfast.Run(tmp_path / "run").checkpoints()] == [7]
    assert holdfast.verify(tmp_path / "run").ok


@WIDTHS
@pytest.mark.parametrize("how", ["end", "exit", "raise"])
def test_one_that_fails_there_makes_the_status_1(tmp_path, how, width):
    command = [sys.executable, "-c", SCRIPT, tmp_path / "run", how, "fails", width]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "SaveFailedError: the save of step 7 has failed" in ended.stderr
    assert "Input/output error" in ended.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock"]


def test_a_forked_child_leaves_the_save_to_its_parent(tmp_path, gate):
    _, run = begin(tmp_path / "run")
    run.save(0)
    child = os.fork()
    if child == 0:
        try:
            run.wait()  # of what is not its own it does not wait
            run.save(1)
        except UsageError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    gate.set()
    run.close()
    assert [entry.step for entry in run.checkpoints()] == [0]


def test_saves_stay_few_in_threads_files_and_memory(tmp_path):
    """The long form is ``make soak``."""
    gc.collect()  # what other tests have left open
    model = nn.Linear(300, 300)
    run = holdfast.Run(tmp_path, model=model, keep=holdfast.keep.latest(2))

    def counts():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    for step in range(60):
        run.save(step)
        if step == 10:
            run.wait()
            before = counts()
    run.wait()
    assert counts() == before
    run.close()
    assert len(run.checkpoints()) == 2


def test_an_interruption_while_a_save_is_handed_over_leaves_none_that_never_ends(
    tmp_path, monkeypatch
):
    _, run = begin(tmp_path / "run")
    run.save(0, wait=True)
    do = Threads.do

    def interrupted(self, job):
        monkeypatch.setattr(Threads, "do", do)
        raise KeyboardInterrupt

    monkeypatch.setattr(Threads, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.save(1)
    pending = run._writer._background._pending
    for _ in range(600):
        if pending.done:
            break
        time.sleep(0.05)
    assert pending.done
    run.close()
    assert holdfast.verify(tmp_path / "run").ok


@pytest.mark.parametrize("mode", [True, "overlap"])
def test_a_thread_that_watches_the_run_takes_no_save_from_the_training(tmp_path, mode):
    model = nn.Linear(300, 300)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"model": model, "optimizer": optimizer}
    run = holdfast.Run(tmp_path, keep=None, background=mode, **parts)
    run.resume()
    ended, errors = threading.Event(), []

    def watch():
        while not ended.is_set():
            try:
                run.wait()
                run.latest()
            except Exception as error:
                errors.append(error)

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for step in range(60):
            optimizer.step()
            with torch.no_grad():
                model.weight.fill_(step)
            run.save(step)
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()
    run.close()
    assert errors == []
    entries = run.checkpoints()
    assert [entry.step for entry in entries] == list(range(60))
    for entry in entries:
        weight = torch.load(entry.path)["model"]["weight"]
        assert torch.equal(weight, torch.full_like(weight, entry.step))


def test_two_threads_that_save_have_their_turns(tmp_path):
    model = nn.Linear(300, 300)
    run = holdfast.Run(tmp_path, keep=None, model=model)
    run.resume()
    steps, refused = iter(range(60)), []

    def save():
        for step in steps:
            try:
                run.save(step)
            except UsageError:  # the other one was faster with a later step
                refused.append(step)

    savers = [threading.Thread(target=save) for _ in range(2)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    run.close()
    assert {entry.step for entry in run.checkpoints()} == set(range(60)) - set(refused)
    assert holdfast.verify(tmp_path).ok


def test_in_another_thread_it_works_too(tmp_path, caplog):
    _, run = begin(tmp_path / "run")

    def train():
        for _ in run.steps(3):
            run.save()
        run.close()

    with caplog.at_level(logging.ERROR):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert [entry.step for entry in run.checkpoints()] == [0, 1, 2]
