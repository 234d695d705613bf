"""Two of everything: writers, readers, folders, clocks. Each other one is a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from tests.faults.asking import ROOT
from tests.faults.states import Training, digest, tensors_of

import holdfast
from holdfast.errors import DamagedError, FormatError, LockedError
from holdfast.runs import removing

_BEGIN = """
import os, signal, sys, threading, time
from pathlib import Path
import torch
import holdfast
from tests.faults.states import Training, digest, tensors_of

folder = Path(sys.argv[1])

def say(text):
    print(text, flush=True)

def hear():
    return sys.stdin.readline().strip()
"""


class Other:
    """Another process, which says and hears a line at a time."""

    def __init__(self, script: str, folder: Path) -> None:
        command = [sys.executable, "-c", _BEGIN + script, str(folder)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def hear(self, text: str = "go on") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def ended(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def other() -> Iterator[Callable[[str, Path], Other]]:
    made: list[Other] = []

    def make(script: str, folder: Path) -> Other:
        made.append(Other(script, folder))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.communicate()


WRITER = """
training = Training("small")
with holdfast.Run(folder, keep=holdfast.keep.latest(3), **training.parts) as run:
    for step in range(run.resume(), 10**6):
        training.become(step)
        run.save(step)
        if step in (0, 3):
            run.wait()
            say(step)
            hear()
"""


@contextmanager
def begun(folder: Path, *, steps: int = 3, keep: object = None) -> Iterator[holdfast.Run]:
    training = Training("small")
    with holdfast.Run(folder, keep=keep, **training.parts) as run:
        for step in range(steps):
            training.become(step)
            run.save(step, wait=True)
        yield run


def check_resumed(folder: Path, step: int) -> None:
    live = Training("small")
    with holdfast.Run(folder, keep=None, **live.parts) as run:
        assert run.resume() == step + 1
    assert digest(live.tensors()) == digest(tensors_of(step, "small"))


def test_a_second_writer_is_refused_and_told_who_writes(other, tmp_path: Path) -> None:
    first = other(WRITER, tmp_path / "run")
    assert first.says() == "0"
    training = Training("small")
    with pytest.raises(LockedError, match=str(first.process.pid)):
        holdfast.Run(tmp_path / "run", **training.parts).resume()
    first.process.send_signal(signal.SIGKILL)
    first.ended()
    check_resumed(tmp_path / "run", 0)


def test_two_that_start_at_once_are_one(other, tmp_path: Path) -> None:
    script = """
say("ready"); hear()
training = Training("small")
try:
    with holdfast.Run(folder, keep=None, **training.parts) as run:
        start = run.resume()
        training.become(start)
        run.save(start, wait=True)
        say(f"saved {start}")
        hear()
except holdfast.errors.LockedError:
    say("refused")
"""
    for round in range(3):
        both = [other(script, tmp_path / "run") for _ in range(2)]
        assert [each.says() for each in both] == ["ready", "ready"]
        for each in both:
            each.hear()
        assert sorted(each.says() for each in both) == ["refused", f"saved {round}"]
        for each in both:
            if each.process.poll() is None:
                each.process.communicate("end\n")
        check_resumed(tmp_path / "run", round)


def test_a_pruner_beside_a_writer_is_refused_and_removes_nothing(other, tmp_path: Path) -> None:
    writer = other(WRITER, tmp_path / "run")
    assert writer.says() == "0"
    pruner = holdfast.Run(tmp_path / "run", keep=holdfast.keep.latest(1))
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(LockedError):
        pruner.prune(dry_run=False)
    assert pruner.prune(dry_run=True).doomed == ()
    command = [sys.executable, "-m", "holdfast", "prune", str(tmp_path / "run"), "--keep", "1"]
    done = subprocess.run([*command, "--yes"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_what_another_process_has_mapped_stays_readable_while_it_is_pruned(
    other, tmp_path: Path
) -> None:
    with begun(tmp_path / "run", steps=1, keep=holdfast.keep.latest(1)) as run:
        reader = other(
            """
mapped = holdfast.load(folder, mmap=True)
looked = holdfast.open(folder)
say("mapped"); hear()
wanted = tensors_of(0, "small")["weight"]
assert torch.equal(mapped["model"]["weight"], wanted)
assert torch.equal(looked.tensor("model.weight"), wanted)
""",
            run.latest().path,
        )
        assert reader.says() == "mapped"
        for step in range(1, 5):
            run.save(step, wait=True)
        assert len(run.checkpoints()) == 1
        reader.hear()
        assert reader.ended() == 0


def test_a_resume_while_another_process_saves_is_refused_and_looking_is_not(
    other, tmp_path: Path
) -> None:
    """Looking never sees half a checkpoint, however fast they come and go."""
    writer = other(WRITER, tmp_path / "run")
    assert writer.says() == "0"
    writer.hear()
    assert writer.says() == "3"
    writer.hear()  # and now as fast as it can
    seen = set()
    until = time.monotonic() + 60
    while time.monotonic() < until and len(seen) < 10:
        live = Training("small")
        with pytest.raises(LockedError):
            holdfast.Run(tmp_path / "run", **live.parts).resume()
        try:
            report = holdfast.load_state(f"{tmp_path / 'run'}@latest", **live.parts)
        except holdfast.errors.NoCheckpointError:
            continue  # it was pruned between looking and loading
        assert digest(live.tensors()) == digest(tensors_of(report.step, "small"))
        seen.add(report.step)
    assert len(seen) > 3
    writer.process.kill()


def test_a_copied_run_and_the_one_it_was_copied_from_go_on_apart(tmp_path: Path) -> None:
    with begun(tmp_path / "one"):
        shutil.copytree(tmp_path / "one", tmp_path / "two")  # while it is held
    for name, step in (("one", 7), ("two", 9)):
        training = Training("small")
        with holdfast.Run(tmp_path / name, keep=None, **training.parts) as run:
            assert run.resume() == 3
            training.become(step)
            run.save(step, wait=True)
    check_resumed(tmp_path / "one", 7)
    check_resumed(tmp_path / "two", 9)


def test_a_moved_run_is_found_whole(tmp_path: Path) -> None:
    with begun(tmp_path / "here"):
        pass
    (tmp_path / "there").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "there" / "run")
    check_resumed(tmp_path / "there" / "run", 2)


def test_a_run_that_is_moved_while_it_is_written_says_so_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is saved afterwards is where the run was asked to be; nothing that was there is lost."""
    training = Training("small")
    with begun(tmp_path / "here") as run:
        (tmp_path / "here").rename(tmp_path / "there")
        training.become(5)
        run.save(5, wait=True)
    assert f"{tmp_path / 'here'} was removed or replaced while this run was saving" in caplog.text
    check_resumed(tmp_path / "there", 2)
    with holdfast.Run(tmp_path / "here", keep=None, **training.parts) as run:
        assert run.resume() == 6


def test_a_clock_that_goes_backwards_changes_no_order(tmp_path: Path, monkeypatch) -> None:
    class Backwards(datetime):
        hours = 0

        @classmethod
        def now(cls, tz=None):
            cls.hours += 5
            return datetime(2024, 1, 1, tzinfo=tz) - timedelta(hours=cls.hours)

    monkeypatch.setattr("holdfast.saving.writing.datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda now=[2e9]: now.append(now[-1] - 1e4) or now[-1])
    with begun(tmp_path / "run", steps=6, keep=holdfast.keep.latest(2)) as run:
        assert [entry.step for entry in run.checkpoints()] == [4, 5]
    monkeypatch.undo()
    check_resumed(tmp_path / "run", 5)


@pytest.mark.parametrize("moment", [0, 1, 2_000_000_000, 2**33])
def test_file_times_that_are_all_equal_change_no_order(moment: int, tmp_path: Path) -> None:
    with begun(tmp_path / "run", steps=4):
        pass
    for path in (tmp_path / "run").iterdir():
        os.utime(path, (moment, moment))
    assert [entry.step for entry in holdfast.Run(tmp_path / "run").checkpoints()] == [0, 1, 2, 3]
    check_resumed(tmp_path / "run", 3)


def test_after_a_kill_the_next_start_has_the_lock_though_loader_workers_live_on(
    other, tmp_path: Path
) -> None:
    """Workers forked while the run was held, in the middle of a save, outlive their parent."""
    writer = other(
        """
from torch.utils.data import DataLoader

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index >= 8:
            time.sleep(30)
        return index

training = Training("small")
run = holdfast.Run(folder, keep=None, **training.parts)
training.become(0)
run.save(0, wait=True)
run.save(1)  # in flight while they are forked
batches = iter(DataLoader(Slow(), batch_size=4, num_workers=2))
next(batches)
say(" ".join(str(worker.pid) for worker in batches._workers))
time.sleep(60)
""",
        tmp_path / "run",
    )
    workers = [int(pid) for pid in writer.says().split()]
    assert len(workers) == 2
    writer.process.kill()
    writer.ended()
    try:
        for pid in workers:
            os.kill(pid, 0)  # they are there
        started = time.monotonic()
        live = Training("small")
        with holdfast.Run(tmp_path / "run", keep=None, **live.parts) as run:
            assert run.resume() in (1, 2)
        assert time.monotonic() - started < 10
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)


def test_a_background_save_at_the_exit_is_there(other, tmp_path: Path) -> None:
    writer = other(
        """
training = Training("large")
training.become(4)
holdfast.Run(folder, keep=None, **training.parts).save(4)
""",
        tmp_path / "run",
    )
    assert writer.ended() == 0
    live = Training("large")
    with holdfast.Run(tmp_path / "run", keep=None, **live.parts) as run:
        assert run.resume() == 5
    assert digest(live.tensors()) == digest(tensors_of(4, "large"))


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_a_file_that_is_cut_short_while_it_is_looked_at_is_an_error_and_no_crash(
    left: float, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    holdfast.save(tensors_of(0, "large"), path)
    looked = holdfast.open(path)
    os.truncate(path, int(path.stat().st_size * left))
    with pytest.raises(FormatError):
        looked.array("weight")
    with pytest.raises(FormatError):
        holdfast.verify(path)
    looked.close()


def test_a_file_that_is_written_into_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    holdfast.save(tensors_of(0, "large"), path)
    looked = holdfast.open(path)
    time.sleep(0.02)  # a tick of the file system's clock
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0" * 100)
    with pytest.raises(DamagedError, match="this file was changed while it was read"):
        looked.array("weight")
    looked.close()


_PINS = """
import sys
from pathlib import Path
from holdfast.errors import NoCheckpointError
from holdfast.runs import pins
print("ready", flush=True)
sys.stdin.readline()
for path in sorted(Path(sys.argv[1]).glob("step-*.pt")):
    try:
        pins.pin(path)
    except NoCheckpointError:
        continue
    print(path.name, flush=True)
"""


def test_a_pin_that_is_acknowledged_while_another_process_prunes_is_kept(tmp_path: Path) -> None:
    """Pruning had read the pins once, before it began: of 80 pins 79 were pruned all the same."""
    folder = tmp_path / "run"
    with holdfast.Run(
        folder, background=False, keep=holdfast.keep.latest(999), model=torch.nn.Linear(1, 1)
    ) as run:
        for step in range(150):
            run.save(step)
    plan = removing.plan_of_run(folder, holdfast.keep.latest(1), is_whole=lambda _: True)
    command = [sys.executable, "-c", _PINS, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as pinning:
        assert pinning.stdout.readline() == "ready\n"
        pinning.stdin.write("go\n")
        pinning.stdin.flush()
        removing.remove(folder, plan)
        pinned = pinning.communicate(timeout=60)[0].split()
    assert len(pinned) > 1
    assert {name for name in pinned if not (folder / name).exists()} == set()
    assert sorted(path.stem for path in folder.glob("*.pin")) == sorted(
        name.removesuffix(".pt") for name in pinned
    )
    assert list(folder.glob(".trash-*")) == []
