"""The process that a fault is done to, and the one that looks at what it left.

Both are forked from the harness, which has imported torch and saved nothing but what is converted.
What was acknowledged stands in the oracle: a file outside the folder, a line for each thing that
happened, written before the next begins.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import mutants
from tests.faults.savers import SAVERS, Saver
from tests.faults.states import digest, digest_of

from holdfast.errors import HoldfastError

#: As it is before a fault: what the harness writes is never short.
_write = os.write

#: Steps saved before the fault, the one it happens in, and the one after it.
BEFORE, DURING, AFTER = (0, 1), 2, 3


@dataclass(frozen=True, slots=True)
class Setup:
    """What saves where: ``saver`` is one of ``SAVERS``, ``mutant`` one of ``mutants.MUTANTS``."""

    saver: str
    size: str
    root: Path
    mutant: str | None = None
    is_first: bool = False  # the fault is in the first save, and in what comes before it

    @property
    def folder(self) -> Path:
        return self.root / "run"

    def oracle(self, outside: Path | None = None) -> Path:
        return (outside or self.root) / "oracle.jsonl"


@dataclass(slots=True)
class Oracle:
    """What is known of a saving process: the steps acknowledged, and those that were begun."""

    acknowledged: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    followed: list[int] = field(default_factory=list)  # what comes after a save is done, too
    removed: set[int] = field(default_factory=set)  # by that, durably

    @classmethod
    def read(cls, path: Path) -> Oracle:
        oracle = cls()
        for line in path.read_text().splitlines():
            event, step, more = json.loads(line)
            if event == "begun":
                oracle.begun.append(step)
            elif event == "acknowledged":
                oracle.acknowledged.append(step)
            elif event == "followed":
                oracle.followed.append(step)
                oracle.removed |= set(more)
            else:
                oracle.failed[step] = more
        return oracle

    @property
    def allowed(self) -> set[int]:
        """Steps that may be found: the last acknowledged, and those begun after it."""
        if not self.acknowledged:
            return self._possible(self.begun)
        last = self.acknowledged[-1]
        return {last, *self._possible(self.begun[self.begun.index(last) :])}

    def _possible(self, steps: list[int]) -> set[int]:
        """A save that failed is not there, unless its letter says that it may be."""
        return {step for step in steps if step not in self.failed or self._may_be(step)}

    def _may_be(self, step: int) -> bool:
        said = self.failed[step]
        return not said["is_ours"] or "in place of the old one" in said["text"]

    def must_keep(self, found: Container[int], keeps: int, pinned: frozenset[int]) -> set[int]:
        """What has to be there: the last ``keeps`` of all that are durable, and what is pinned."""
        begun = dict.fromkeys(self.begun)  # one that failed is begun twice
        durable = [step for step in begun if step in self.acknowledged or step in found]
        return {*durable[-keeps:], *(pinned & set(self.followed))}


class Actor:
    """A saving process that stands before its third save until ``go``."""

    def __init__(
        self, setup: Setup, outside: Path | None = None, prepare: Callable[[], object] | None = None
    ) -> None:
        self.setup = setup
        SAVERS[setup.saver].prepare(setup.size)
        told, tell = os.pipe()
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(told)
            os.close(self._go)
            _leave_by(setup, lambda: _act(setup, setup.oracle(outside), tell, wait, prepare))
        os.close(tell)
        os.close(wait)
        self._told = os.fdopen(told)
        line = self._told.readline()
        if not line:
            raise RuntimeError(f"{setup} came not even to the fault: {os.waitpid(self.pid, 0)}")
        #: The threads there are before the fault, by name; the main one is "MainThread".
        self.threads: dict[str, int] = json.loads(line)

    def go(self) -> None:
        _write(self._go, b"x")

    def stands(self) -> bool:
        """Wait until it has saved, or tried to; False where it has died instead."""
        return self._told.readline() == "tried\n"

    def ended(self) -> int:
        """Wait; the exit code, negative for a signal."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self._go)
        self._told.close()
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _act(
    setup: Setup, oracle: Path, tell: int, wait: int, prepare: Callable[[], object] | None
) -> None:
    log = os.open(oracle, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, step: int, more: Any = None) -> None:
        _write(log, (json.dumps([event, step, more]) + "\n").encode())

    begun: list[bool] = []

    def save(step: int) -> None:
        note("begun", step)
        try:
            if not begun:
                saver.begin()
                begun.append(True)
            saver.save(step)
            note("acknowledged", step)
            note("followed", step, list(saver.after(step)))
        except Exception as error:
            note("failed", step, _described(error))

    saver = SAVERS[setup.saver](setup.folder, setup.size)
    for step in () if setup.is_first else BEFORE:
        save(step)
    if setup.is_first == bool(begun) or Oracle.read(oracle).failed:
        raise RuntimeError("it fails without a fault, too")
    if prepare is not None:
        prepare()
    mutants.apply(setup.mutant)
    threads = {thread.name: thread.native_id for thread in threading.enumerate()}
    threads[threading.main_thread().name] = os.getpid()  # it remembers that of the parent
    _write(tell, (json.dumps(threads) + "\n").encode())
    os.read(wait, 1)
    save(DURING)
    _write(tell, b"tried\n")
    os.read(wait, 1)  # only where the fault left it alive
    if DURING in Oracle.read(oracle).failed:
        save(DURING)  # the same once more
    save(AFTER)
    try:
        if begun:
            saver.end()
    except HoldfastError as error:
        note("failed", -1, _described(error))


def _described(error: BaseException) -> dict[str, Any]:
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(getattr(cause, "errno", None))
        cause = cause.__cause__
    return {
        "kind": type(error).__name__,
        "is_ours": isinstance(error, HoldfastError),
        "text": str(error),
        "errnos": [number for number in causes if number is not None],
    }


def look(setup: Setup, outside: Path | None = None) -> list[str]:
    """What is wrong with the folder after a fault, as a process that starts now finds it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)

        def answer() -> None:
            found = json.dumps(_look(setup, Oracle.read(setup.oracle(outside))))
            _write(write, found.encode())

        _leave_by(setup, answer)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        said = (setup.root / "said.txt").read_text()[-300:]
        return [f"the process that looks died: {os.waitstatus_to_exitcode(status)}: {said}"]
    problems: list[str] = json.loads(text)
    return problems


def _look(setup: Setup, oracle: Oracle) -> list[str]:
    problems = []
    saver = SAVERS[setup.saver](setup.folder, setup.size)
    try:
        if broken := saver.broken():
            problems.append(f"{', '.join(broken)} bear a checkpoint's name and are not whole")
        found = saver.find()
    except Exception as error:
        return [f"the newest cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]]
    if found is None and oracle.acknowledged:
        return ["no checkpoint is found"]
    problems += _not_kept(saver, oracle)
    if found is None:
        return [*problems, *_go_on(setup, saver, -1)]
    step, tensors = found
    if step not in oracle.allowed:
        problems.append(f"step {step} is found where {sorted(oracle.allowed)} may be")
    if digest(tensors) != digest_of(step, setup.size):
        problems.append(f"step {step} is found with other tensors than were saved")
    if saver.sweeps_at_start and (left := saver.leftovers()):
        problems.append(f"{', '.join(left)} survive the next start")
    return [*problems, *_go_on(setup, saver, step), *_pins_gone(saver, oracle)]


def _pins_gone(saver: Saver, oracle: Oracle) -> Iterator[str]:
    """What is pinned outlives the next save, too."""
    yield from _not_pinned(saver, oracle)
    if gone := (saver.pinned & set(oracle.followed)) - set(saver.kept() or {}):
        yield f"steps {sorted(gone)} are pinned, and gone with the next save"


def _not_kept(saver: Saver, oracle: Oracle) -> Iterator[str]:
    kept = saver.kept()
    if kept is None or saver.keeps is None:
        return
    missing = oracle.must_keep(kept, saver.keeps, saver.pinned) - set(kept)
    if missing:
        yield f"steps {sorted(missing)} were to be kept, and only {sorted(kept)} are there"
    for step, tensors in kept.items():
        if digest(tensors) != digest_of(step, saver.size):
            yield f"step {step} is there with other tensors than were saved"
    if back := oracle.removed & set(kept):
        yield f"steps {sorted(back)} were pruned, and are there again"
    yield from _not_pinned(saver, oracle)


def _not_pinned(saver: Saver, oracle: Oracle) -> Iterator[str]:
    pins, followed = saver.pins(), set(oracle.followed)
    if lost := (saver.pinned & followed) - pins:
        yield f"steps {sorted(lost)} were pinned, and are not any more"
    if back := saver.unpinned & followed & pins:
        yield f"steps {sorted(back)} were unpinned, and are pinned again"


def _go_on(setup: Setup, saver: Saver, step: int) -> list[str]:
    """What is wrong when a training goes on from a step, and saves."""
    problems: list[str] = []
    try:
        if not saver.sweeps_at_start:  # which has begun already, to find
            saver.begin()
        if step < DURING:
            saver.save(DURING)  # once more
            saver.after(DURING)
        saver.save(AFTER + 1)
        saver.after(AFTER + 1)
        saver.end()
    except Exception as error:
        return [*problems, f"the next save fails: {type(error).__name__}: {error}".splitlines()[0]]
    if left := saver.leftovers():
        problems.append(f"{', '.join(left)} survive the next save")
    again = SAVERS[setup.saver](setup.folder, setup.size)
    found = again.find()
    again.end()
    if found is None or found[0] != AFTER + 1:
        problems.append("the next save is not found")
    return problems


def _leave_by(setup: Setup, work: Callable[[], object]) -> None:
    """Do the work of a forked child, and end it without what the harness is to do at its end."""
    status = 1
    try:  # all of it: what got out of here would run on in the harness's own frames
        said = os.open(setup.root / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
