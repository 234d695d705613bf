"""A training that is killed and started again at random moments, while calls fail at random.

``endurance.py SECONDS SEED`` → JSON. Each life of the training is a process of its own; it saves
after every step, in one of the modes. Some are killed, some told to stop, some have system calls
that fail under them. What each finds at its start is compared with what the former ones were told,
and the end with the same training never interrupted, without holdfast.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from tests.faults.acting import _leave_by
from tests.faults.tracing import Strace
from torch import nn

import holdfast
from holdfast.errors import HoldfastError

#: What may fail under a life, and how.
_FAULTS = (
    *("fsync:error=EIO", "fsync:error=ENOSPC", "pwrite64:error=EIO", "pwrite64:error=ENOSPC"),
    *("write:error=ENOSPC", "rename:error=EIO", "openat:error=EMFILE", "unlink:error=EIO"),
    *("fallocate:error=ENOSPC", "newfstatat:error=EIO", "close:error=EIO", "flock:error=ENOLCK"),
    *("fsync:signal=KILL", "rename:signal=KILL", "unlink:signal=KILL", "pwrite64:signal=KILL"),
)
_MODES: tuple[bool | str, ...] = (False, True, "overlap", "overlap-checked")
_WIDTH = {"small": 20, "large": 800}


@dataclass(slots=True)
class Account:
    """What happened in all lives."""

    seconds: float = 0.0
    lives: int = 0
    killed: int = 0
    stopped: int = 0
    failed: int = 0
    steps: int = 0
    saves: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the lives leave things, and how wide the model is."""

    root: Path
    size: str

    @property
    def told(self) -> Path:
        return self.root / "told.jsonl"


class Training:
    """Steps that depend on everything before them: parameters, momenta, buffers, random numbers."""

    def __init__(self, size: str) -> None:
        torch.manual_seed(0)
        width = _WIDTH[size]
        self.model = nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, width)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 50, gamma=0.99)

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(4, 8)).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()

    def digest(self) -> str:
        found = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            found.update(name.encode() + value.numpy().tobytes())
        for state in self.optimizer.state.values():
            for name, value in state.items():
                found.update(name.encode() + value.numpy().tobytes())
        found.update(repr(self.scheduler.state_dict()).encode())
        found.update(torch.get_rng_state().numpy().tobytes())
        return found.hexdigest()


def live(setting: Setting, mode: bool | str, stop: int, ready: int) -> None:
    """One life: go on from what is there, until ``stop`` or the end of this process."""
    told = os.open(setting.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*what: object) -> None:
        line = (json.dumps(what) + "\n").encode()
        try:
            os.write(told, line)
        except OSError:  # the one call that was to fail was this one, of the harness
            os.write(told, line)

    training = Training(setting.size)
    run = holdfast.Run(
        setting.root / "run",
        keep=holdfast.keep.latest(3),
        background=mode,
        **training.parts,
    )
    begun = False
    pendings: list[Any] = []
    for step in run.steps(stop):
        if not begun:
            begun = True
            note("resumed", step)
            os.write(ready, b"x")
        training.step()
        note("begun", step + 1)
        pendings.append(run.save())
        if pendings[-1] is None:
            pendings.pop()
        while pendings and pendings[0].done:
            pendings.pop(0).wait()
            note("durable", step + 1 if not pendings else step)
    run.close()
    note("durable", stop)
    note("ended", training.digest())


def spend(
    setting: Setting, choices: random.Random, stop: int, account: Account, *, calm: bool = False
) -> None:
    """One life, and what is done to it; nothing, to a calm one."""
    account.lives += 1
    mode = choices.choice(_MODES)
    gone_on, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gone_on)

        def life() -> None:
            try:
                live(setting, mode, stop, ready)
            except HoldfastError as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                os._exit(3)
            except SystemExit as leaving:  # it was told to stop, and has saved
                os._exit(int(leaving.code or 0))

        _leave_by(setting, life)  # type: ignore[arg-type]
    os.close(ready)
    fails = choices.random() < 0.5 and not calm
    strace = None
    if fails and os.read(gone_on, 1):
        what = choices.choice(_FAULTS)
        name, injected = what.split(":")[0], f"inject={what}:when={choices.randrange(1, 60)}"
        with suppress(RuntimeError):  # it had ended by itself
            strace = Strace(
                setting.root / "strace.log", pid, "-e", f"trace=fsync,{name}", "-e", injected
            )
    timer = threading.Timer(
        choices.uniform(0.0, 0.8),
        _signal,
        (pid, choices.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))),
    )
    if not calm:  # what fails need not end it
        timer.start()
    _, status = os.waitpid(pid, 0)
    timer.cancel()
    if strace is not None:
        strace.detach()
    os.close(gone_on)
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGKILL, -signal.SIGTERM):  # SIGTERM: before it was listened to
        account.killed += 1
    elif code == 75:
        account.stopped += 1
    elif code == 3 and strace is not None and "(INJECTED)" in strace.log.read_text():
        account.failed += 1
    elif code != 0:
        said = (setting.root / "said.txt").read_text()[-2000:]
        account.wrong.append(f"life {account.lives} ({mode}) ended with {code}: {said}")


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def judge(setting: Setting, account: Account) -> tuple[int, str | None]:
    """Whether each life found what it should; the newest step known to be durable, and the end."""
    durable, begun, end = 0, 0, None
    account.saves = 0
    for line in setting.told.read_text().splitlines() if setting.told.exists() else []:
        event, value = json.loads(line)
        if event == "resumed":
            if not durable <= value <= max(begun, durable):
                account.wrong.append(f"resumed at {value}: {durable} was durable, {begun} begun")
            begun = value
        elif event == "begun":
            begun = value
            account.saves += 1
        elif event == "durable":
            durable = max(durable, value)
        else:
            end = value
    account.steps = durable
    return durable, end


def endure(seconds: float, seed: int, size: str = "small") -> Account:
    """Lives for so many seconds, then one that nothing is done to; what came of it."""
    account, choices = Account(), random.Random(seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), size)
        while time.monotonic() - started < seconds and not account.wrong:
            spend(setting, choices, 10**9, account)
            judge(setting, account)
        stop = account.steps + 5
        spend(setting, choices, stop, account, calm=True)
        durable, end = judge(setting, account)
        account.seconds = round(time.monotonic() - started, 1)
        if durable != stop or end != uninterrupted(stop, size):
            account.wrong.append(f"at step {durable} of {stop} the state is another one")
    return account


def uninterrupted(stop: int, size: str) -> str:
    """The digest of the same training after so many steps, without holdfast."""
    training = Training(size)
    for _ in range(stop):
        training.step()
    return training.digest()


if __name__ == "__main__":
    account = endure(float(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    print(json.dumps(asdict(account)))
    sys.exit(bool(account.wrong))
