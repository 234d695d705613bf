"""Kill a save at each of its system calls.

A first save is only watched. Then one process for each call that touched the folder is killed when
it is about to make it (SIGKILL, injected by strace at the entry of the call).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import tracing
from tests.faults.acting import DURING, Actor, Oracle, Setup, look
from tests.faults.tracing import Call, Strace

#: How often a case is tried that does not happen.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What the faults are done to: every ``share``-th case, of the calls of one name ``only``."""

    saver: str
    size: str
    share: int = 1
    only: str | None = None
    mutant: str | None = None
    is_first: bool = False

    def setup(self, root: Path) -> Setup:
        return Setup(self.saver, self.size, root, self.mutant, self.is_first)

    def of(self, calls: Sequence[Call]) -> list[Call]:
        return [call for call in calls if self.only in (None, call.name)]


@dataclass(slots=True)
class Outcome:
    """How many cases there were, how many of them happened, and what was wrong in which."""

    saver: str
    fault: str
    cases: int = 0
    happened: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def note(self, case: str, problems: Sequence[str]) -> None:
        self.happened += 1
        if problems:
            self.wrong[case] = list(problems)


def watched(setup: Setup) -> list[Call]:
    """The calls of a save that touch the folder, where nothing goes wrong."""
    actor = Actor(setup)
    strace = Strace(setup.root / "strace.log", actor.pid, "-e", tracing.watching())
    actor.go()
    stands = actor.stands()
    oracle = Oracle.read(setup.oracle())
    if not stands or DURING not in oracle.acknowledged:
        raise RuntimeError(f"{setup} fails without a fault, too: {oracle.failed}")
    actor.kill()
    actor.ended()
    return tracing.calls_of(strace.ended(), actor.threads, setup.folder)


def roots(base: Path | None = None) -> Generator[Path, None, None]:
    """A new, empty folder each time."""
    with tempfile.TemporaryDirectory(dir=base) as folder:
        number = 0
        while True:
            number += 1
            root = Path(folder) / str(number)
            root.mkdir()
            yield root
            shutil.rmtree(root, ignore_errors=True)


def target(actor: Actor, call: Call) -> tuple[int, bool]:
    """Which thread strace attaches to, and whether to that one alone."""
    return actor.threads.get(call.thread, actor.pid), bool(call.thread)


def kill_at(setup: Setup, call: Call) -> list[str] | None:
    """Kill a save at a call; what is wrong then. None where it never made that call."""
    actor = Actor(setup)
    inject = f"inject={call.name}:signal=KILL:when={call.number}"
    pid, alone = target(actor, call)
    strace = Strace(
        setup.root / "strace.log", pid, "-e", f"trace={call.name}", "-e", inject, only_thread=alone
    )
    actor.go()
    actor.go()
    was_killed = actor.ended() == -9
    strace.ended()
    return look(setup) if was_killed else None


def kill_after_all(setup: Setup) -> list[str]:
    """Kill a process that has saved."""
    actor = Actor(setup)
    actor.go()
    actor.stands()
    actor.kill()
    actor.ended()
    return look(setup)


def tried(case: Callable[[], list[str] | None]) -> list[str] | None:
    """What came of a case: again where it did not happen, as threads share work as they will."""
    for _ in range(TRIES):
        problems = case()
        if problems is not None:
            return problems
    return None


def kill_at_each(plan: Plan) -> Outcome:
    """Kill at each call of a save."""
    outcome = Outcome(plan.saver, f"killed at each system call, {plan.size}")
    folders = roots()
    for call in plan.of(watched(plan.setup(next(folders))))[:: plan.share]:
        outcome.cases += 1
        problems = tried(lambda call=call: kill_at(plan.setup(next(folders)), call))
        if problems is not None:
            outcome.note(str(call), problems)
    outcome.cases += 1
    outcome.note("after all", kill_after_all(plan.setup(next(folders))))
    folders.close()
    return outcome
