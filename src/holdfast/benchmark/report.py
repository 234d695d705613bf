"""What a benchmark has found: plain values, to JSON and back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing: the median, the least, the most, how many."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One way of doing something: wall and CPU seconds, and memory on top of what there was.

    ``blocked`` are the seconds until a save in the background let the caller go on; ``into`` is
    what a load fills. ``peak_nbytes`` is the largest of all rounds, the unrecorded one included;
    None where the system does not tell.
    """

    name: str
    seconds: Spread
    cpu_seconds: Spread
    peak_nbytes: int | None = None
    blocked: Spread | None = None
    into: str | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """Seconds of one training step, while saves of one kind run and while none does."""

    name: str
    during: Spread
    without: Spread

    @property
    def ratio(self) -> float:
        """How many times as long a step takes while a save runs."""
        return self.during.median / self.without.median


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """All that was measured with one workload; ``skipped`` says what was not, and why."""

    name: str
    nbytes: int
    tensors: int
    limits: tuple[Row, ...] = ()
    saves: tuple[Row, ...] = ()
    steps: tuple[StepRow, ...] = ()
    warm: tuple[Row, ...] = ()
    cold: tuple[Row, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured: ``memory_nbytes`` is that of the machine, 0 where unknown."""

    cpu: str
    cores: int
    memory_nbytes: int
    file_system: str
    system: str
    versions: Mapping[str, str]
    date: str


@dataclass(frozen=True, slots=True)
class Result:
    """A whole benchmark."""

    machine: Machine
    repeat: int
    is_quick: bool
    workloads: tuple[WorkloadResult, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """What ``to_json`` gave; keys that it does not know are left out."""
        return cls(
            Machine(**value["machine"]),
            value["repeat"],
            value["is_quick"],
            tuple(_workload(each) for each in value["workloads"]),
        )


def row(rows: Sequence[Row], name: str) -> Row | None:
    """The row of that name; None where there is none."""
    return next((each for each in rows if each.name == name), None)


def _workload(value: Mapping[str, Any]) -> WorkloadResult:
    rows: dict[str, Any] = {
        key: tuple(map(_row, value[key])) for key in ("limits", "saves", "warm", "cold")
    }
    steps = tuple(
        StepRow(step["name"], Spread(**step["during"]), Spread(**step["without"]))
        for step in value["steps"]
    )
    rest = {key: value[key] for key in ("name", "nbytes", "tensors", "skipped")}
    return WorkloadResult(**rest, **rows, steps=steps)


def _row(value: Mapping[str, Any]) -> Row:
    spreads = {
        key: None if value[key] is None else Spread(**value[key])
        for key in ("seconds", "cpu_seconds", "blocked")
    }
    return Row(**{**value, **spreads})
