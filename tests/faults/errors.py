"""Let each system call of a save fail, in each way it can.

strace has the call return the error without making it. The save has to say so, and to name the
cause; the checkpoints before it have to be there; and when the fault is gone the next save works.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.faults.acting import AFTER, DURING, Actor, Oracle, Setup, look
from tests.faults.kills import Outcome, Plan, roots, target, tried, watched
from tests.faults.savers import SAVERS
from tests.faults.tracing import Call, Strace

#: What each of the calls that change something is to fail with.
_COMMON = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EFBIG", "EINTR")
#: What some can fail with besides; those that only look fail with EIO and EACCES.
_ERRORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "ftruncate"), _COMMON),
    **dict.fromkeys(("fsync", "fdatasync", "close", "mkdir", "mkdirat"), _COMMON),
    "openat": (*_COMMON, "EMFILE"),
    "fallocate": (*_COMMON, "EOPNOTSUPP"),
    **dict.fromkeys(("rename", "renameat", "renameat2", "link", "linkat"), (*_COMMON, "EXDEV")),
    **dict.fromkeys(("unlink", "unlinkat"), (*_COMMON, "EBUSY")),
    "rmdir": (*_COMMON, "ENOTEMPTY"),
    "flock": ("EIO", "EINTR", "ENOLCK"),
    "fcntl": ("EIO", "EINVAL"),
}
#: Calls that are made again where a signal interrupts them, or are done all the same.
_GO_ON = ("openat", "write", "pwrite64", "ftruncate", "fsync", "fallocate", "close")
#: What makes a checkpoint: where one of them fails, and is not just interrupted, none is there.
_MAKES = (
    *("write", "pwrite64", "writev", "pwritev", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2"),
)
#: As many writes as are tried alone; the small saves make fewer, and the large ones go on alike.
_MOST_WRITES = 40
#: The largest share that still means everything: of large saves every third error is tried.
_EVERY = 3
_HARMLESS = ("EINTR", "EOPNOTSUPP", "ENOLCK")


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that is to fail; ``is_pruning`` once the new checkpoint is durable."""

    call: Call
    error: str
    is_pruning: bool

    def __str__(self) -> str:
        return f"{self.error} at {self.call}"

    @property
    def is_fatal(self) -> bool:
        """Whether the save cannot have been good."""
        opens_a_folder = self.call.opens_a_folder and "O_NONBLOCK" not in self.call.text
        makes = self.call.name in _MAKES or (self.call.name == "openat" and opens_a_folder)
        makes = makes and ".lock" not in self.call.text  # which holds a note, and no checkpoint
        return makes and self.error not in _HARMLESS and not self.is_pruning


def failures(calls: Sequence[Call], plan: Plan) -> Iterator[Failure]:
    """Each way in which each call can fail; every so many of them, so that ways differ."""
    is_pruning, count = False, 0
    for call in calls:
        for error in _ERRORS.get(call.name, ("EIO", "EACCES")):
            if count % plan.share == 0 and plan.of([call]):
                yield Failure(call, error, is_pruning)
            count += 1
        # The folder of what was renamed is synced: from here on it is there.
        is_pruning = is_pruning or bool(
            call.name == "fsync" and re.match(r"\d+<RUN[^.>]*>\)", call.text)
        )


def fail_at(setup: Setup, failure: Failure) -> list[str] | None:
    """Let one call fail; what is wrong then. None where the call was not made."""
    actor = Actor(setup)
    call = failure.call
    pid, alone = target(actor, call)
    strace = Strace(
        setup.root / "strace.log",
        pid,
        *("-e", f"trace={call.name},fsync"),
        *("-e", f"inject={call.name}:error={failure.error}:when={call.number}"),
        only_thread=alone,
    )
    actor.go()
    stands = actor.stands()
    if stands:
        strace.detach()
    else:
        actor.ended()
        strace.ended()
    log = strace.log.read_text()
    if not _is_meant(log, setup):
        actor.kill()
        if stands:
            actor.ended()
        return None
    if not stands:
        return ["the process died of it"]
    problems = [*_said(setup, failure), *_fsynced_again(log), *_look_at_a_copy(setup)]
    actor.go()
    if actor.ended() != 0:
        return [*problems, "the process died after it"]
    oracle = Oracle.read(setup.oracle())
    if DURING not in oracle.followed:
        problems.append(f"the same save, once more, fails: {oracle.failed.get(DURING)}")
    if AFTER not in oracle.followed:
        problems.append(f"the next save fails: {oracle.failed.get(AFTER)}")
    return [*problems, *look(setup)]


def _is_meant(log: str, setup: Setup) -> bool:
    """Whether a call failed, and none but those that touch the folder.

    Of a thread that is not there yet the calls are counted in every thread, so that the call of
    that number in another one fails, too: of the harness itself, or of an import.
    """
    failed = [line for line in log.splitlines() if "(INJECTED)" in line]
    return bool(failed) and all(str(setup.folder) in line for line in failed)


def _said(setup: Setup, failure: Failure) -> Iterator[str]:
    oracle = Oracle.read(setup.oracle())
    if DURING in oracle.acknowledged and DURING not in oracle.failed:
        is_ours = SAVERS[setup.saver].is_ours
        # Some of the others copy where they cannot rename: whether that is good is seen then.
        if failure.is_fatal and (is_ours or not failure.call.name.startswith("rename")):
            yield "a save is acknowledged that cannot be durable"
        return
    if not SAVERS[setup.saver].is_ours:  # what others say is theirs
        return
    said = oracle.failed[DURING]
    number = getattr(errno, failure.error)
    if not said["is_ours"]:
        yield f"what is raised is no letter: {said['kind']}: {said['text']}"
    if number not in said["errnos"] and os.strerror(number) not in said["text"]:
        yield f"the cause is not named: {said['text']}"
    goes_on = failure.error == "EINTR" and failure.call.name in _GO_ON
    if "O_NONBLOCK" in failure.call.text:  # opendir(3), which Python does not call again
        goes_on = False
    if goes_on or failure.error == "EOPNOTSUPP":
        yield f"a save fails that could go on: {said['text']}"


def _fsynced_again(log: str) -> Iterator[str]:
    """An fsync that failed is never tried again: the kernel forgets what it could not write."""
    failed: set[str] = set()
    for line in log.splitlines():
        found = re.search(r"fsync\(\d+<([^>]*)>", line)
        if found is None or ".tmp" not in found[1]:
            continue
        if found[1] in failed:
            yield f"{found[1]} is synced again"
        if "(INJECTED)" in line and "EINTR" not in line:
            failed.add(found[1])


def _look_at_a_copy(setup: Setup) -> list[str]:
    """While the process is still there and holds the lock of its run."""
    copy = replace(setup, root=setup.root / "copy", mutant=None)
    shutil.copytree(setup.root, copy.root, ignore=shutil.ignore_patterns("copy", "*.log"))
    problems = look(copy)
    shutil.rmtree(copy.root)
    return [f"before the next save: {problem}" for problem in problems]


@dataclass(frozen=True, slots=True)
class Short:
    """Writes that do less than they are asked: the ``number``-th, from 0, or all of them.

    It writes half, or the least there can be: a byte, a page where it goes past the cache.
    """

    number: int | None
    is_least: bool

    def __str__(self) -> str:
        which = "each write" if self.number is None else f"write {self.number}"
        return f"{which} is short, {'the least' if self.is_least else 'half of it'}"

    def happen(self, seen: Path) -> None:
        """Patch this process; ``seen`` is there once a write was short."""
        counted = itertools.count()
        for name in ("write", "pwrite"):
            real = getattr(os, name)

            def short(fd: int, data: bytes, *at: int, real: Any = real) -> int:
                page = 4096 if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT else 1
                part = page if self.is_least else len(data) // 2 // page * page
                is_it = next(counted) == self.number or self.number is None
                if not is_it or not 0 < part < len(data):
                    return int(real(fd, data, *at))
                seen.touch()
                return int(real(fd, memoryview(data)[:part], *at))

            setattr(os, name, short)


def write_short(setup: Setup, how: Short) -> list[str] | None:
    """Let a write be a short one: nobody may notice. None where there was none."""
    seen = setup.root / "short"
    actor = Actor(setup, prepare=lambda: how.happen(seen))
    actor.go()
    stands = actor.stands()
    actor.go()
    if not stands or actor.ended() != 0:
        return ["the process died of it"]
    if not seen.exists():
        return None
    oracle = Oracle.read(setup.oracle())
    problems = [f"step {step} fails: {said}" for step, said in oracle.failed.items()]
    return [*problems, *look(setup)]


def fail_at_each(plan: Plan) -> Outcome:
    """Let each call of a save fail in every way, or in every ``share``-th of all."""
    outcome = Outcome(plan.saver, f"an error of each system call, {plan.size}")
    folders = roots()
    for failure in failures(watched(plan.setup(next(folders))), plan):
        outcome.cases += 1
        problems = tried(lambda failure=failure: fail_at(plan.setup(next(folders)), failure))
        if problems is not None:
            outcome.note(str(failure), problems)
    if not SAVERS[plan.saver].is_ours:  # they write past Python: nothing would be short
        folders.close()
        return outcome
    misses = 0
    for how in _shorts(plan):
        problems = write_short(plan.setup(next(folders)), how)
        misses = 0 if problems is not None else misses + 1
        if problems is not None:
            outcome.cases += 1
            outcome.note(str(how), problems)
        if misses > 6:  # it makes no more writes
            break
    folders.close()
    return outcome


def _shorts(plan: Plan) -> Iterator[Short]:
    """All at once; and each alone, where every case is wanted."""
    yield Short(None, is_least=False)
    if plan.size == "small":
        yield Short(None, is_least=True)
    if plan.share <= _EVERY and plan.only is None:
        for number in range(_MOST_WRITES):
            yield from (Short(number, is_least=False), Short(number, is_least=True))
