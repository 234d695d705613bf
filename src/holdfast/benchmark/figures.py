"""The figures that holdfast sets itself: what is wanted, what was reached, whether that is it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from holdfast.benchmark import names
from holdfast.benchmark.report import Result, Row, WorkloadResult, row

#: Number of a workload; None where it lacks what the number is made of.
Compute = Callable[[WorkloadResult], float | None]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one workload; ``reached`` and ``is_met`` are None where it was not measured."""

    what: str
    workload: str
    wanted: str
    reached: float | None
    unit: str
    is_met: bool | None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bound:
    """What is wanted of a number: "at least", "at most" or "under" ``limit``."""

    words: str
    limit: float
    unit: str = "x"

    def __str__(self) -> str:
        return f"{self.words} {self.limit:g} {self.unit}"

    def holds(self, reached: float) -> bool:
        """Whether the number is what is wanted."""
        if self.words == "at least":
            return reached >= self.limit
        return reached < self.limit or (self.words == "at most" and reached == self.limit)


@dataclass(frozen=True, slots=True)
class Rule:
    """A figure before it is measured."""

    what: str
    workloads: tuple[str, ...]
    bound: Bound
    compute: Compute

    def judge(self, result: WorkloadResult) -> Figure:
        """What a workload reached."""
        reached = self.compute(result)
        is_met = None if reached is None else self.bound.holds(reached)
        return Figure(self.what, result.name, str(self.bound), reached, self.bound.unit, is_met)


def figures(result: Result) -> list[Figure]:
    """Every figure of the workloads that were measured, in the order of the rules."""
    return list(_judged({each.name: each for each in result.workloads}))


def _judged(measured: dict[str, WorkloadResult]) -> Iterator[Figure]:
    for rule in RULES:
        for name in rule.workloads:
            if name in measured:
                yield rule.judge(measured[name])


def _median(found: Row | None, of: str = "seconds") -> float | None:
    spread = None if found is None else getattr(found, of)
    return None if spread is None else float(spread.median)


def ratio(over: float | None, under: float | None) -> float | None:
    """One number in units of the other; None where either is missing, or there is no such unit."""
    return None if over is None or not under else over / under


def _limit(name: str) -> Compute:
    return lambda result: _median(row(result.limits, name))


def _save(name: str, of: str = "seconds") -> Compute:
    return lambda result: _median(row(result.saves, name), of)


def _warm(name: str) -> Compute:
    return lambda result: _median(row(result.warm, name))


def _cold(name: str) -> Compute:
    return lambda result: _median(row(result.cold, name))


def _over(over: Compute, under: Compute) -> Compute:
    return lambda result: ratio(over(result), under(result))


def _overlap_ms(result: WorkloadResult) -> float | None:
    blocked = _save(names.RUN_SAVE_OVERLAP, "blocked")(result)
    return None if blocked is None else blocked * 1000


def _step_ratio(result: WorkloadResult) -> float | None:
    ratios = [step.ratio for step in result.steps if step.name == names.RUN_SAVE]
    return ratios[0] if ratios else None


def _peak_mib(found: Row | None) -> float | None:
    return None if found is None or found.peak_nbytes is None else found.peak_nbytes / _MIB


_LARGE = (names.LARGE,)
_BULK = (names.LARGE, names.LARGER, names.ADAM)

_SAVED = _save(names.SAVE_STATE)
_FASTER = _over(_save(names.TORCH_SAVE), _SAVED)
_BLOCKED = _save(names.RUN_SAVE, "blocked")
_FASTER_THAN_TORCH = "durable save: as fast as torch.save + fsync"

RULES = (
    Rule(
        "durable save: share of the plain direct write",
        (names.LARGE, names.LARGER),
        Bound("at least", 0.85),
        _over(_limit(names.WRITE), _SAVED),
    ),
    Rule(_FASTER_THAN_TORCH, _BULK, Bound("at least", 2.5), _FASTER),
    Rule(_FASTER_THAN_TORCH, (names.MANY,), Bound("at least", 1.5), _FASTER),
    Rule(
        "durable save: as fast as torch.save to a temp, fsync, rename, fsync",
        (names.IRIS,),
        Bound("at least", 1.0),
        _over(_save(names.TORCH_SAVE_RENAME), _SAVED),
    ),
    Rule(
        "CPU time of a save: part of torch.save's",
        _BULK,
        Bound("under", 0.5),
        _over(_save(names.SAVE_STATE, "cpu_seconds"), _save(names.TORCH_SAVE, "cpu_seconds")),
    ),
    Rule(
        "time Run.save() blocks: in memory copies",
        _LARGE,
        Bound("at most", 1.3),
        _over(_BLOCKED, _limit(names.COPY)),
    ),
    Rule(
        "time Run.save() blocks: less than dcp.async_save",
        _LARGE,
        Bound("at least", 4.0),
        _over(_save(names.DCP_ASYNC, "blocked"), _BLOCKED),
    ),
    Rule(
        "time Run.save() blocks with overlap",
        (names.LARGE, names.ADAM),
        Bound("under", 5.0, "ms"),
        _overlap_ms,
    ),
    Rule(
        "training step while a save runs: times as long",
        (names.LARGE, names.ADAM),
        Bound("under", 1.15),
        _step_ratio,
    ),
    Rule(
        "load_state in place, warm: as fast as torch.load + load_state_dict",
        _LARGE,
        Bound("at least", 6.0),
        _over(_warm(names.TORCH_INTO), _warm(names.LOAD_STATE)),
    ),
    Rule(
        "load_state in place, cold: share of the plain read",
        _LARGE,
        Bound("at least", 0.8),
        _over(_cold(names.READ), _cold(names.LOAD_STATE)),
    ),
    Rule(
        "load into fresh memory, warm: as fast as torch.load",
        _LARGE,
        Bound("at least", 1.5),
        _over(_warm(names.TORCH_LOAD), _warm(names.LOAD)),
    ),
    Rule(
        "extra memory of a save",
        _BULK,
        Bound("under", 64.0, "MiB"),
        lambda result: _peak_mib(row(result.saves, names.SAVE_STATE)),
    ),
    Rule(
        "extra memory of a verified load in place",
        _LARGE,
        Bound("under", 64.0, "MiB"),
        lambda result: _peak_mib(row(result.warm, names.LOAD_STATE)),
    ),
)
