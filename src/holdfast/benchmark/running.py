"""A whole benchmark: one workload after the other, each way in turn."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdfast.benchmark import choosing, machine, measure, names, workloads
from holdfast.benchmark.loads import measure_loads
from holdfast.benchmark.measure import Samples
from holdfast.benchmark.report import Result, Row, StepRow, WorkloadResult
from holdfast.benchmark.room import check_room
from holdfast.benchmark.savers import Saver
from holdfast.benchmark.saves import LIMITS, measure_saves, opened
from holdfast.benchmark.stepping import step_rows
from holdfast.benchmark.workloads import Workload

Tell = Callable[[str], object]

#: A training goes on beside saves of these.
_STEPS = (names.LARGE, names.ADAM)
#: Loads of four GiB would take long and say nothing new.
_LOADS = (names.LARGE, names.ADAM, names.MANY, names.IRIS)


def bench(
    folder: Path,
    *,
    only: Sequence[str] = (),
    repeat: int = 5,
    is_quick: bool = False,
    on_progress: Tell = lambda text: None,
) -> Result:
    """Measure in a temporary folder inside ``folder``, which is removed at the end.

    ``on_progress`` gets a few words before each sample.

    Raises:
        UsageError: no such folder, no such workload, or no rounds.
        NoSpaceError: the disk has no room for the largest workload.
    """
    chosen = check_room(folder, only, repeat, is_quick=is_quick)
    found = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_small_heap())
        # One that is interrupted may still be written to by the threads of others.
        temporary = tempfile.TemporaryDirectory(
            dir=folder.resolve(), prefix="holdfast-bench-", ignore_cleanup_errors=True
        )
        place = Path(stack.enter_context(temporary))
        for name in chosen:
            (place / name).mkdir()
            workload = workloads.make(name, is_quick=is_quick)
            found.append(_Session(workload, place / name, repeat, is_quick, on_progress).run())
            del workload  # before the next one is made
    return Result(machine.describe(folder), repeat, is_quick, tuple(found))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What other libraries warn of (no process group, no CUDA) is known, and not for the reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _small_heap() -> Iterator[None]:
    """Garbage is collected before each sample: what was there before need not be looked at."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass(slots=True)
class _Session:
    """One workload."""

    workload: Workload
    folder: Path
    repeat: int
    is_quick: bool
    on_progress: Tell
    skipped: dict[str, str] = field(default_factory=dict)

    def run(self) -> WorkloadResult:
        tensors = self.workload.tensors()
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        count = len(tensors)
        del tensors  # a load replaces those of an optimizer
        result = self._with_saves(WorkloadResult(self.workload.name, nbytes, count))
        if self.workload.name in _LOADS:
            warm, cold, why = measure_loads(
                self.workload, self.folder, self.repeat, self._tell("loading")
            )
            self.skipped |= why
            result = replace(result, warm=warm, cold=cold)
        return replace(result, skipped=self.skipped)

    def _with_saves(self, result: WorkloadResult) -> WorkloadResult:
        candidates = choosing.choose(self.workload.name)
        room = choosing.Room.here(taken=result.nbytes)  # by the copies that are the limit
        savers, self.skipped = choosing.sort_out(candidates, result.nbytes, result.tensors, room)
        with contextlib.ExitStack() as stack:
            savers, failed = opened(savers, self.workload, self.folder, stack)
            samples = measure_saves(
                savers, self.workload, self.folder, self.repeat, self._tell("saving")
            )
            self.skipped |= failed | samples.failed
            steps = self._steps([each for each in savers if each.name in samples.taken])
        limits, saves = _split(samples)
        return replace(result, limits=limits, saves=saves, steps=steps)

    def _steps(self, savers: list[Saver]) -> tuple[StepRow, ...]:
        if self.workload.name not in _STEPS:
            return ()
        background = [saver for saver in savers if saver.is_background]
        tell = self._tell("training beside")
        least = 1 if self.is_quick else 5
        rows = step_rows(
            background, self.workload, self.folder, self.repeat, least=least, on_sample=tell
        )
        return tuple(rows)

    def _tell(self, what: str) -> Tell:
        return lambda name: self.on_progress(f"{self.workload.name}: {what}, {name}")


def _split(samples: Samples) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    rows = [measure.row(name, each) for name, each in samples.taken.items()]
    limits = tuple(row for row in rows if row.name in LIMITS)
    return limits, tuple(row for row in rows if row.name not in LIMITS)
