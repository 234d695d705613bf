"""What one call costs: wall seconds, CPU seconds, memory."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_SELF = Path("/proc/self")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """The cost of one call; ``peak_nbytes`` is None where the system does not tell."""

    seconds: float
    cpu_seconds: float
    peak_nbytes: int | None = None
    blocked: float | None = None


class Meter:
    """Measures from when it is made to ``stop``; ``lap`` in between notes who waited so long."""

    def __init__(self) -> None:
        gc.collect()  # what is thrown away costs the one who made it, not the next
        self._resident = _begin_peak()
        self._cpu = cpu_seconds()
        self._started = time.perf_counter()
        self._blocked: float | None = None

    def lap(self) -> None:
        """The caller may go on from here."""
        self._blocked = time.perf_counter() - self._started

    def stop(self) -> Sample:
        """All is done."""
        seconds = time.perf_counter() - self._started
        cpu = cpu_seconds() - self._cpu
        peak = None if self._resident is None else _status("VmHWM")
        extra = None if peak is None or self._resident is None else max(0, peak - self._resident)
        return Sample(seconds, cpu, extra, self._blocked)


def measured(call: Callable[[], object]) -> Sample:
    """The cost of a call; its result is thrown away after the clock has stopped."""
    meter = Meter()
    result = call()
    sample = meter.stop()
    del result
    return sample


def cpu_seconds() -> float:
    """CPU seconds of this process and of the processes it has started, ended ones included."""
    times = os.times()
    ended = times.children_user + times.children_system
    return time.process_time() + ended + sum(map(_cpu_of, _descendants(_SELF)))


def _descendants(process: Path) -> Iterator[str]:
    for children in process.glob("task/*/children"):
        try:
            pids = children.read_text().split()
        except OSError:  # a thread that has ended meanwhile
            continue
        for pid in pids:
            yield pid
            yield from _descendants(Path("/proc") / pid)


def _cpu_of(pid: str) -> float:
    """From ``/proc/PID/stat``, user and system time: fields 14 and 15 (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _begin_peak() -> int | None:
    """Let the peak begin at what is resident now, and give that; None where that is refused."""
    try:
        (_SELF / "clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    for line in (_SELF / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * _KIB
    return None
