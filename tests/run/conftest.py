"""A small training, and what the tests of a whole run look at."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import traceback
import types
import zipfile

import pytest
import torch

import holdfast


class Training:
    """A model that learns a little, with momentum and a schedule; each step draws numbers."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.5)

    @property
    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def step(self):
        self.optimizer.zero_grad()
        loss = self.model(torch.randn(4, 3)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    def run(self, folder, **options):
        return holdfast.Run(folder, **{**self.parts, **options})

    def weights(self):
        return self.model.weight.detach().clone()


@pytest.fixture(autouse=True, params=["foreground", "background"])
def saving(request, monkeypatch):
    """Each test twice: saves that are done when ``save`` returns, and saves by another thread.

    What tests do between a save and its end stands in test_background.py; here each is waited for.
    """
    if request.param == "foreground":
        monkeypatch.setitem(holdfast.Run.__init__.__kwdefaults__, "background", False)
    else:
        monkeypatch.setitem(holdfast.Run.save.__kwdefaults__, "wait", True)
    return request.param


@pytest.fixture
def training():
    return Training()


@pytest.fixture
def begun(tmp_path):
    """A run of steps 0 to 4, closed, all kept; gives its folder."""

    def begin(stop=5, folder=None, seed=0, **options):
        training = Training(seed)
        folder = folder or tmp_path / "run"
        with training.run(folder, **{"keep": None, **options}) as run:
            for step in run.steps(stop):
                training.step()
                run.save(metrics={"loss": abs(step - 1.5)})
        return folder

    return begin


@pytest.fixture
def log(caplog):
    """The lines that holdfast logged, each with its level."""
    caplog.set_level(logging.DEBUG, logger="holdfast")

    class Log:
        def lines(self, level=logging.WARNING):
            return [r.getMessage() for r in caplog.records if r.levelno >= level]

        def infos(self):
            return self.lines(logging.INFO)

        def clear(self):
            caplog.clear()

    return Log()


def names(folder):
    """What lies in a folder, the lock aside."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def file_of(folder, step):
    return folder / f"step-{step:08d}.pt"


def steps_in(folder):
    return [entry.step for entry in holdfast.Run(folder).checkpoints()]


def damage(path):
    """Flip one bit of a tensor; the headers stay whole."""
    with zipfile.ZipFile(path) as archive:
        member = next(i for i in archive.infolist() if "/data/0" in i.filename)
    data = bytearray(path.read_bytes())
    name_nbytes, extra_nbytes = (
        int.from_bytes(data[member.header_offset + at : member.header_offset + at + 2], "little")
        for at in (26, 28)
    )
    data[member.header_offset + 30 + name_nbytes + extra_nbytes] ^= 1
    path.write_bytes(data)


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(b"<html>404</html>")


def record(path):
    """The record's JSON as it stands in the file."""
    with zipfile.ZipFile(path) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("/holdfast.json")]
        return json.loads(archive.read(name))


def in_child(act):
    """Run ``act`` in a forked child, as it may change what a process has one of; its answer.

    A new process would have to import torch, which takes seconds.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # the threads of the parent's pool are not in the child
            said = act()
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, str(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def as_nobody(folder, act):
    """Run ``act`` as a user who owns nothing; the folders down to ``folder`` may be entered."""
    for above in (folder, *folder.parents):
        if above.stat().st_uid == os.getuid() and above != above.parent:
            above.chmod(above.stat().st_mode | 0o055)

    def child():
        if os.geteuid() == 0:
            os.setuid(65534)
        return act()

    return in_child(child)


def on_small_disk(folder, nbytes, act):
    """Run ``act`` where ``folder`` is a file system of so many bytes, seen by the child alone."""
    folder.mkdir()

    def child():
        new_mounts = 0x00020000
        if ctypes.CDLL(None, use_errno=True).unshare(new_mounts) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        size = ["-o", f"size={nbytes}"]
        subprocess.run(["mount", "-t", "tmpfs", *size, "none", str(folder)], check=True)
        return act()

    return in_child(child)


def letter(error, act):
    """The text of the error that ``act`` raises."""
    try:
        act()
    except error as raised:
        return str(raised)
    return f"no {error.__name__}"


@pytest.fixture
def at():
    """The helpers above, for tests that are imported without a package."""
    return types.SimpleNamespace(
        names=names,
        file=file_of,
        steps=steps_in,
        damage=damage,
        truncate=truncate,
        empty=empty,
        garbage=garbage,
        record=record,
        Training=Training,
        in_child=in_child,
        as_nobody=as_nobody,
        on_small_disk=on_small_disk,
        letter=letter,
    )
