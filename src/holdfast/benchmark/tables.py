"""A benchmark as tables of text, for the terminal and for the docs alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.benchmark import names
from holdfast.benchmark.figures import Figure, figures, ratio
from holdfast.benchmark.report import Machine, Result, Row, Spread, WorkloadResult, row
from holdfast.spec.words import size

_GIB = 1 << 30
#: Below this, speeds say nothing: what takes time is not the bytes.
_ENOUGH = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the names of the columns, and the rows; the first column is words."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def head(result: Result) -> list[str]:
    """Machine and method in a few lines."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"{machine.cpu}, {machine.cores} cores, {_memory(machine)}, {machine.file_system}",
        f"{machine.system}; {versions}; {machine.date}",
        f"Medians of {result.repeat} rounds (least to most), all ways in turn, after an unrecorded "
        "round.",
    ]
    if result.is_quick:
        lines.append("Quick: small sizes, few rounds. These figures say little.")
    return lines


def _memory(machine: Machine) -> str:
    return f"{size(machine.memory_nbytes)} memory" if machine.memory_nbytes else "memory unknown"


def tables(result: Result) -> list[Table]:
    """All tables, workload by workload, and last the figures."""
    found = [table for each in result.workloads for table in _of(each) if table.rows]
    judged = figures(result)
    return [*found, _figures(judged)] if judged else found


def title(result: WorkloadResult) -> str:
    """A workload in a few words."""
    return f"{result.name}: {result.tensors:,} tensors, {size(result.nbytes)}"


def _of(result: WorkloadResult) -> Iterator[Table]:
    yield _limits(result)
    yield _saves(result)
    yield _steps(result)
    yield _loads(result, "warm", result.warm)
    yield _loads(result, "cold", result.cold)
    skipped = tuple(result.skipped.items())
    yield Table(f"{title(result)}, not measured", ("way", "why"), skipped)


def _limits(result: WorkloadResult) -> Table:
    rows = [
        (each.name, spread(each.seconds), _speed(result.nbytes, each)) for each in result.limits
    ]
    return Table(f"{title(result)}, limits of this machine", ("", "time", "GiB/s"), tuple(rows))


def _saves(result: WorkloadResult) -> Table:
    header = (
        "way",
        "durable",
        "GiB/s",
        "of the direct write",
        "as fast as torch.save",
        "CPU s/GiB",
    )
    return Table(
        f"{title(result)}, saving",
        (*header, "extra memory", "blocks, p50", "blocks, most"),
        tuple(_save(result, each) for each in result.saves),
    )


def _save(result: WorkloadResult, each: Row) -> tuple[str, ...]:
    write, torch_save = row(result.limits, names.WRITE), row(result.saves, names.TORCH_SAVE)
    return (
        each.name,
        spread(each.seconds),
        _speed(result.nbytes, each),
        _times(write, each),
        _times(torch_save, each),
        _per_gib(result.nbytes, each.cpu_seconds),
        "" if each.peak_nbytes is None else size(each.peak_nbytes),
        "" if each.blocked is None else seconds(each.blocked.median),
        "" if each.blocked is None else seconds(each.blocked.high),
    )


def _steps(result: WorkloadResult) -> Table:
    rows = [
        (each.name, spread(each.during), spread(each.without), f"{each.ratio:.2f} x")
        for each in result.steps
    ]
    header = ("a training step while it saves", "during", "without", "times as long")
    return Table(f"{title(result)}, training goes on", header, tuple(rows))


def _loads(result: WorkloadResult, cache: str, loads: tuple[Row, ...]) -> Table:
    rows = [
        (
            each.name,
            each.into or "",
            spread(each.seconds),
            _speed(result.nbytes, each),
            _per_gib(result.nbytes, each.cpu_seconds),
            "" if each.peak_nbytes is None else size(each.peak_nbytes),
        )
        for each in loads
    ]
    header = ("way", "into", "time", "GiB/s", "CPU s/GiB", "extra memory")
    return Table(f"{title(result)}, loading, {cache}", header, tuple(rows))


def _figures(judged: list[Figure]) -> Table:
    rows = [(each.what, each.workload, each.wanted, _reached(each), _met(each)) for each in judged]
    header = ("figure", "workload", "wanted", "reached", "")
    return Table("What it must reach", header, tuple(rows))


def _reached(figure: Figure) -> str:
    return "not measured" if figure.reached is None else f"{figure.reached:.2f} {figure.unit}"


def _met(figure: Figure) -> str:
    return "" if figure.is_met is None else "met" if figure.is_met else "missed"


def spread(found: Spread) -> str:
    """``0.31 s (0.29 to 0.40)``, in the unit that suits the median."""
    unit, factor = _unit(found.median)
    low, high = (_three_digits(value * factor) for value in (found.low, found.high))
    return f"{_three_digits(found.median * factor)} {unit} ({low} to {high})"


def seconds(value: float) -> str:
    """``0.31 s``, ``4.20 ms`` or ``85.0 µs``."""
    unit, factor = _unit(value)
    return f"{_three_digits(value * factor)} {unit}"


def _unit(value: float) -> tuple[str, float]:
    return ("s", 1) if value >= 0.1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _speed(nbytes: int, found: Row) -> str:
    is_enough = nbytes >= _ENOUGH and found.seconds.median > 0
    return f"{nbytes / _GIB / found.seconds.median:.2f}" if is_enough else ""


def _per_gib(nbytes: int, found: Spread) -> str:
    return f"{found.median / (nbytes / _GIB):.2f}" if nbytes >= _ENOUGH else ""


def _times(base: Row | None, found: Row) -> str:
    times = ratio(None if base is None else base.seconds.median, found.seconds.median)
    return "" if times is None else f"{times:.2f} x"
