"""Kill a training again and again: ``killing.py epochs|batches WORKERS OUT MOMENTS SEED``.

Each training is a process of its own, forked from this one, which has imported torch and done
nothing with it: that saves the seconds of the import. It is stopped (SIGSTOP) when it seems to be
where it should die, looked at while it stands still, and only then killed: what is reported about
a kill is what was seen in the very state that the kill ended.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import kept
import torch._dynamo  # noqa: F401 (the first optimizer of a process imports it: a second each)
import workload


@dataclass
class Moment:
    """When to kill: not before a step, in which phase, and how far into it.

    ``share`` (0 to 1) is that of the time that a write or a resume takes; ``batch`` counts within
    the step.
    """

    step: int
    phase: str
    share: float
    batch: int


@dataclass
class Seen:
    """What was seen of a process that stood still, right before it was killed.

    ``temp_nbytes`` is the size of the unfinished file of the save in flight, None without one;
    ``newest`` the newest step with a checkpoint under its name, None without one.
    """

    aim: str
    phase: str
    step: int
    batch: int
    temp_nbytes: int | None
    newest: int | None


#: What is aimed at: a file that is being written, one that just got its name, a call of save, a
#: step, and a resume.
AIMS = ("writing", "writing", "writing", "named", "save", "step", "step", "step", "step", "resume")

#: About as long as a resume and the writing of a file take here.
RESUME_SECONDS = 0.02
WRITE_SECONDS = 0.004


def plan(count: int, steps: int, batches: int, seed: int) -> list[Moment]:
    """Moments in all phases, spread over the first steps; a step may be hit more than once.

    A moment that is missed (a save can be through in a millisecond) is tried again in the next
    step, so steps must be left behind the last one.
    """
    chosen = random.Random(seed)
    aims = [AIMS[index % len(AIMS)] for index in range(count)]
    chosen.shuffle(aims)
    starts = sorted(chosen.randrange(steps) for _ in range(count))
    return [
        Moment(step, aim, chosen.random(), chosen.randrange(batches))
        for step, aim in zip(starts, aims, strict=True)
    ]


class Watch:
    """One training process, and what can be seen of it from outside."""

    def __init__(self, pid: int, marks: kept.Marks, folder: Path) -> None:
        self.pid, self.marks, self.folder = pid, marks, folder
        self.began: float | None = None
        self.temp: str | None = None
        self.patience = WRITE_SECONDS
        self.newest_before = self.look("").newest

    def look(self, aim: str) -> Seen:
        phase, step, batch = self.marks.read()
        files = {e.name: e.stat().st_size for e in _entries(self.folder)}
        temps = {name: size for name, size in files.items() if name.endswith(".tmp")}
        if aim == "writing" and self.temp not in temps:
            # Was one missed? The next one may be written as fast.
            self.patience *= 0.7 if self.temp else 1.0
            self.temp, self.began = next(iter(temps), None), None
        return Seen(
            aim,
            phase,
            step,
            batch,
            max(temps.values(), default=None),
            max((int(name[5:13]) for name in files if name.startswith("step-")), default=None),
        )

    def is_time(self, moment: Moment) -> bool:
        phase, step, batch = self.marks.read()
        if moment.phase == "resume":
            # One that is through before its time is killed wherever it is then.
            return phase != "start" and self._has_lasted(moment.share * RESUME_SECONDS)
        if step < moment.step:
            return False
        if moment.phase == "step":
            return phase == "step" and batch >= moment.batch
        return self._is_in_save(moment, self.look(moment.phase))

    def _is_in_save(self, moment: Moment, seen: Seen) -> bool:
        if moment.phase == "writing":
            # Its size says nothing: a large file has all of it before its first byte.
            is_there = seen.temp_nbytes is not None
            return is_there and self._has_lasted(moment.share * self.patience)
        if moment.phase == "named":
            # In the background the next step has begun by then.
            is_new = seen.newest is not None and seen.newest >= seen.step - 1
            return is_new and seen.newest != self.newest_before and seen.temp_nbytes is None
        return seen.phase == "save"

    def _has_lasted(self, seconds: float) -> bool:
        self.began = self.began or time.monotonic()
        return time.monotonic() - self.began >= seconds

    def kill_at(self, moment: Moment) -> Seen:
        """Kill it at that moment; an error if it ends before."""
        while True:
            if not self.is_time(moment):
                self._fail_if_ended(moment)
                os.sched_yield()
                continue
            self._stop()
            if self.is_time(moment):
                seen = self.look(moment.phase)
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
                return seen
            os.kill(self.pid, signal.SIGCONT)

    def _stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            sys.exit(f"the training ended by itself: {os.waitstatus_to_exitcode(status)}")

    def _fail_if_ended(self, moment: Moment) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(f"the training ended with {code} before it could be killed at {moment}")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if _is_there(entry)]
    except FileNotFoundError:
        return []


def _is_there(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()  # kept by the entry
    except FileNotFoundError:  # renamed or removed in this moment
        return False
    return True


def start(train: Callable[[kept.Marks], None], messages: Path) -> tuple[int, kept.Marks]:
    """Fork a training, in a process group of its own."""
    marks = kept.Marks()
    pid = os.fork()
    if pid:
        return pid, marks
    os.setpgid(0, 0)
    fd = os.open(messages, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    train(marks)
    sys.exit(0)


#: How many steps a training has, and how many batches each.
SIZES = {"epochs": (workload.EPOCHS, workload.BATCHES), "batches": (workload.STEPS, 1)}


def main(variant: str, workers: int, out: Path, count: int, seed: int) -> None:
    steps, batches = SIZES[variant]
    kills: list[Seen] = []
    pids: list[int] = []
    for number, moment in enumerate([*plan(count, steps * 3 // 4, batches, seed), None]):
        pid, marks = start(
            lambda marks: kept.TRAININGS[variant](workers, out, marks), out / f"messages-{number}"
        )
        pids.append(pid)
        if moment is not None:
            kills.append(Watch(pid, marks, out / "run").kill_at(moment))
            continue
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(f"the last training failed: {os.waitstatus_to_exitcode(status)}")
    (out / "kills.json").write_text(json.dumps([asdict(seen) for seen in kills]))
    end_groups(pids)


def end_groups(pids: list[int]) -> None:
    """End loader workers that outlived their training (they notice only every few seconds)."""
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
