"""What bad input gets: a letter, the checkpoint before it untouched, no temp left behind."""

from __future__ import annotations

import platform
import re
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch

import holdfast
from holdfast.errors import (
    CaptureError,
    FileError,
    HoldfastError,
    LockedError,
    NoCheckpointError,
    NoSpaceError,
    UsageError,
)
from holdfast.io import commit


@pytest.fixture
def kept(begun, at):
    """A run with one checkpoint, and a check that it is as it was and alone."""
    folder = begun(stop=1)
    data = at.file(folder, 0).read_bytes()

    class Kept:
        def __init__(self):
            self.folder, self.training = folder, at.Training()

        def run(self, **options):
            return self.training.run(folder, **{"keep": None, **options})

        def check(self):
            assert at.names(folder) == ["step-00000000.pt"]
            assert at.file(folder, 0).read_bytes() == data
            assert holdfast.verify(at.file(folder, 0)).ok

    return Kept()


def test_an_unwritable_folder_with_checkpoints(kept, at):
    kept.folder.chmod(0o555)
    said = at.as_nobody(kept.folder, lambda: at.letter(FileError, kept.run().resume))
    kept.folder.chmod(0o755)
    assert said == (
        "this run cannot be locked for writing: Permission denied\n"
        f"  in {kept.folder}/.lock\n"
        f"  Check who owns the folder and its permissions: ls -ld {kept.folder}\n"
        "  Reading needs no lock: holdfast.Run(folder).load(...)."
    )
    kept.check()


def test_pain_03_a_folder_that_becomes_unwritable_fails_the_save(kept, at):
    """pytorch-lightning #21800: the permission error was swallowed: "saved", and no file."""
    (kept.folder / ".lock").chmod(0o666)

    def act():
        run = kept.run()
        run.resume()
        return at.letter(FileError, lambda: run.save(1))

    kept.folder.chmod(0o555)
    said = at.as_nobody(kept.folder, act)
    kept.folder.chmod(0o755)
    assert said == (
        "the checkpoint could not be written: Permission denied\n"
        f"  in {kept.folder}/step-00000001.pt\n"
        f"  Check who owns the folder and its permissions: ls -ld {kept.folder}"
    )
    kept.check()


def test_a_folder_that_cannot_be_made(tmp_path, training, at):
    tmp_path.chmod(0o555)
    act = lambda: at.letter(FileError, training.run(tmp_path / "a" / "b").resume)  # noqa: E731
    said = at.as_nobody(tmp_path, act)
    assert said == (
        "the checkpoint could not be written: Permission denied\n"
        f"  in {tmp_path}/a/b\n"
        f"  Check who owns the folder and its permissions: ls -ld {tmp_path}/a"
    )


def test_a_checkpoint_that_may_not_be_read(kept, at):
    at.file(kept.folder, 0).chmod(0)
    act = lambda: at.letter(FileError, lambda: holdfast.load(at.file(kept.folder, 0)))  # noqa: E731
    said = at.as_nobody(kept.folder, act)
    at.file(kept.folder, 0).chmod(0o644)
    assert said == (
        "this cannot be read: Permission denied\n"
        f"  in {at.file(kept.folder, 0)}\n"
        f"  Check its owner and permissions: ls -ld {at.file(kept.folder, 0)}"
    )


def test_pain_25_a_full_disk_says_that_it_is_full(tmp_path, training, at):
    """pytorch #76108: "file write failed" meant a full disk."""
    folder = tmp_path / "small"

    def act():
        run = training.run(folder, keep=None)
        for step in range(100):
            said = at.letter(NoSpaceError, partial(run.save, step))
            if said != "no NoSpaceError":
                break
        nbytes = at.file(folder, 0).stat().st_size
        assert at.names(folder) == [at.file(folder, s).name for s in range(step)]
        assert all(holdfast.verify(entry.path).ok for entry in run.checkpoints())
        at.file(folder, 0).unlink()
        run.save(step)
        return f"{said}\n{step} {nbytes:,} {run.latest().step}"

    *said, numbers = at.on_small_disk(folder, 1 << 16, act).splitlines()
    step, nbytes, latest = numbers.split()
    assert latest == step
    wanted, found = re.findall(r"[\d,]+\d", said[2])
    # The seconds in the record have more digits or fewer; members are aligned to 64 bytes.
    sizes = [int(text.replace(",", "")) for text in (wanted, nbytes)]
    assert abs(sizes[0] - sizes[1]) in (0, 64)
    assert said == [
        "the disk has no room for this checkpoint; nothing was written",
        f"  in {at.file(folder, int(step))}",
        f"  wanted {wanted} bytes free, found {found}",
        "  Free some space; in a run, keep= says how many checkpoints stay.",
    ]


def test_a_disk_that_fills_up_while_writing(tmp_path, training, at):
    folder = tmp_path / "small"

    def act():
        run = training.run(folder, keep=None)
        run.save(0)
        data = at.file(folder, 0).read_bytes()
        run.extra["large"] = torch.zeros(1 << 20)
        # As if another process took the space between the look and the writing.
        commit.check_room = lambda *_: None
        said = at.letter(NoSpaceError, lambda: run.save(1))
        assert at.names(folder) == ["step-00000000.pt"]
        assert at.file(folder, 0).read_bytes() == data
        run.extra.clear()
        return f"{said}\n{run.save(1).step}"

    said = at.on_small_disk(folder, 1 << 20, act).splitlines()
    nbytes = said[2].split()[1]
    assert said == [
        "the checkpoint could not be written: No space left on device",
        f"  in {at.file(folder, 1)}",
        f"  wanted {nbytes} bytes",
        "  Free some space; in a run, keep= says how many checkpoints stay.",
        "1",
    ]


def test_a_run_where_a_file_is(tmp_path, training, at):
    path = tmp_path / "model.pt"
    path.write_bytes(b"mine")
    assert at.letter(FileError, training.run(path).resume) == (
        "a run is a folder, and this is a file\n"
        f"  in {path}\n"
        "  Give the folder that holds the checkpoints."
    )
    assert at.letter(FileError, lambda: training.run(path).save(0)) == (
        "a run is a folder, and this is a file\n"
        f"  in {path}\n"
        "  Give the folder that holds the checkpoints."
    )
    below = path / "run"
    assert at.letter(FileError, training.run(below).resume) == (
        "the checkpoint could not be written: File exists\n"
        f"  in {below}\n"
        "  A part of the path is a file, not a folder: choose another path."
    )
    assert path.read_bytes() == b"mine"
    assert at.names(tmp_path) == ["model.pt"]


def test_a_file_where_a_folder_is(tmp_path, training, at):
    (tmp_path / "out").mkdir()
    for act in (
        lambda: holdfast.save_state(tmp_path / "out", **training.parts),
        lambda: holdfast.save({"a": 1}, tmp_path / "out"),
    ):
        assert at.letter(FileError, act) == (
            "a file was to be written where a folder is\n"
            f"  in {tmp_path / 'out'}\n"
            f"  Give a file name inside the folder, such as '{tmp_path}/out/checkpoint.pt'."
        )
    assert at.names(tmp_path) == ["out"]


def test_a_folder_that_bears_a_checkpoints_name_is_gone_around(kept, at):
    (kept.folder / "step-00000001.pt").mkdir()
    run = kept.run()
    run.resume()
    run.save(1)
    assert at.names(kept.folder)[1:] == ["step-00000001.2.pt", "step-00000001.pt"]
    assert at.steps(kept.folder) == [0, 1]


def test_a_second_writer_gets_the_name_of_the_first(kept, at):
    """Two real processes; when the first is killed, the second may go on."""
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(kept.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "holding\n"
    expected = (
        f"process {first.pid} on {platform.node()} writes to this run\n"
        f"  in {kept.folder}\n"
        "  Wait until it ends, or stop it; or give this training a folder of its own.\n"
        "  Reading needs no lock: holdfast list, Run(folder).load(...)."
    )
    run = kept.run()
    assert at.letter(LockedError, run.resume) == expected
    assert at.letter(LockedError, lambda: run.save(7)) == expected
    assert holdfast.Run(kept.folder).latest().step == 0
    kept.check()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert run.resume() == 1


_HOLD = """
import sys, torch, holdfast
run = holdfast.Run(sys.argv[1], keep=None, m=torch.nn.Linear(1, 1))
try:
    run.resume()
except holdfast.errors.MismatchError:
    print("holding", flush=True)
sys.stdin.read()
"""


def test_an_object_that_cannot_be_pickled(kept, tmp_path, at):
    run = kept.run()
    run.resume()
    run.extra["lock"] = threading.Lock()
    assert at.letter(CaptureError, lambda: run.save(1)).startswith(
        "an object of this class cannot be saved, at 'extra.lock'\n"
    )
    run.extra = {"tensor": torch.zeros(1)}
    run.extra["tensor"].note = lambda: None
    function = f"{__name__}.test_an_object_that_cannot_be_pickled.<locals>.<lambda>"
    said = at.letter(CaptureError, lambda: run.save(1)).splitlines()
    assert said[0] == "an object of torch.Tensor cannot be pickled, at 'extra.tensor'"
    assert function.rpartition(".")[2] in said[1]
    kept.check()
    (tmp_path / "a.pt").write_bytes(b"before")
    said = at.letter(CaptureError, lambda: holdfast.save({"x": [lambda: 0]}, tmp_path / "a.pt"))
    assert said.startswith("an object of builtins.function cannot be pickled, at 'x.0'\n  found ")
    assert (tmp_path / "a.pt").read_bytes() == b"before"
    assert at.names(tmp_path) == ["a.pt", "run"]


class Moody:
    def __init__(self):
        self.is_fine = True

    def state_dict(self):
        if self.is_fine:
            return {"n": 1}
        raise RuntimeError("not now")

    def load_state_dict(self, state):
        pass


def test_a_state_dict_that_raises(tmp_path, training, at):
    moody = Moody()
    expected = (
        "the state of 'moody' could not be read: its state_dict() raised\n"
        "  found RuntimeError: not now\n"
        "  Look at Moody.state_dict()."
    )
    run = training.run(tmp_path, keep=None, moody=moody)
    run.save(0)
    data = at.file(tmp_path, 0).read_bytes()
    moody.is_fine = False
    assert at.letter(CaptureError, lambda: run.save(1)) == expected
    assert at.letter(CaptureError, lambda: training.run(tmp_path, moody=moody)) == expected
    assert at.letter(CaptureError, lambda: holdfast.save_state(tmp_path / "a", m=moody)) == (
        expected.replace("'moody'", "'m'")
    )
    assert at.names(tmp_path) == ["step-00000000.pt"]
    assert at.file(tmp_path, 0).read_bytes() == data
    moody.is_fine = True
    assert run.save(1).step == 1


def test_a_scheduler_with_functions_in_it_is_saved_without_them(tmp_path, training, at):
    schedule = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda n: 0.9**n)
    training.run(tmp_path, scheduler=schedule).save(0)
    assert torch.load(at.file(tmp_path, 0), weights_only=True)["scheduler"]["lr_lambdas"] == [None]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"keep": "latest"},
            "keep= takes a policy\n  wanted such as holdfast.keep.latest(3), found 'latest'",
        ),
        (
            {"every": 100},
            "every= takes a schedule\n  wanted such as holdfast.every(steps=100), found 100",
        ),
        (
            {"grace": "long"},
            "grace= is a number of seconds\n  found 'long'",
        ),
    ],
)
def test_options_of_another_kind_are_errors_at_construction(tmp_path, training, options, text):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path / "run", **options)
    assert str(caught.value) == text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("which", [None, 1.5, True, ["latest"]], ids=repr)
def test_what_picks_no_checkpoint_is_an_error(kept, which):
    with pytest.raises(UsageError) as caught:
        kept.run().resume(which)
    assert str(caught.value) == (
        "this picks no checkpoint of a run\n"
        f"  found {which!r}\n"
        "  Ask for latest, best:METRIC, best:METRIC:max, a step, or a file name."
    )


def test_a_step_that_is_not_there(kept):
    with pytest.raises(NoCheckpointError) as caught:
        kept.run().resume(7)
    assert str(caught.value) == (
        "there is no checkpoint of step 7\n"
        f"  in {kept.folder}\n"
        "  found only step 0\n"
        f"  List them all: holdfast list {kept.folder}"
    )
    kept.check()


def test_every_error_is_a_holdfast_error_and_what_python_calls_it():
    assert issubclass(NoSpaceError, HoldfastError | OSError)
    assert issubclass(UsageError, ValueError)
    assert issubclass(CaptureError, TypeError)
    assert issubclass(NoCheckpointError, FileNotFoundError)
