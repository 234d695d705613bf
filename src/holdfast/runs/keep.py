"""Which checkpoints a run keeps: ``keep.latest(3) | keep.best("loss") | keep.every(steps=1000)``.

Policies are values. Each says of a run's records, oldest to newest, which it keeps and why; ``|``
keeps what either side keeps. What is never removed whatever the policy says is in ``prune``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from holdfast.errors import UsageError
from holdfast.runs.checking import MODES, checked_count, checked_minutes, shown_period
from holdfast.spec.record import Record

__all__ = ["Keep", "best", "every", "latest"]


class Keep(ABC):
    """A policy: what it keeps of a run's checkpoints. Combine two with ``|``."""

    __slots__ = ()

    @abstractmethod
    def keeps(self, records: Sequence[Record]) -> dict[int, str]:
        """The positions kept of ``records`` (oldest to newest), each with the reason in words."""

    def metrics(self) -> dict[str, str]:
        """The metrics this policy compares, each with its mode: ``min`` or ``max``."""
        return {}

    def __or__(self, other: Keep) -> Keep:
        if not isinstance(other, Keep):
            raise UsageError(
                "policies are joined with policies",
                wanted='such as latest(3) | best("loss")',
                found=repr(other),
            )
        return _Either((*_parts(self), *_parts(other)))


@dataclass(frozen=True, slots=True)
class _Latest(Keep):
    n: int

    def keeps(self, records: Sequence[Record]) -> dict[int, str]:
        first = max(0, len(records) - self.n)
        return dict.fromkeys(range(first, len(records)), str(self))

    def __str__(self) -> str:
        return f"latest({self.n})"


@dataclass(frozen=True, slots=True)
class _Best(Keep):
    metric: str
    n: int
    mode: str

    def keeps(self, records: Sequence[Record]) -> dict[int, str]:
        order = ranking([record.metrics for record in records], self.metric, self.mode)
        return dict.fromkeys(order[: self.n], str(self))

    def metrics(self) -> dict[str, str]:
        return {self.metric: self.mode}

    def __str__(self) -> str:
        n = f", n={self.n}" if self.n != 1 else ""
        mode = f", mode={self.mode!r}" if self.mode != "min" else ""
        return f"best({self.metric!r}{n}{mode})"


@dataclass(frozen=True, slots=True)
class _Every(Keep):
    steps: int | None
    minutes: float | None

    def keeps(self, records: Sequence[Record]) -> dict[int, str]:
        kept: set[int] = set()
        if self.steps is not None:
            kept |= _firsts([_bucket_of_steps(record, self.steps) for record in records])
        if self.minutes is not None:
            kept |= _firsts([_bucket_of_time(record, self.minutes) for record in records])
        return dict.fromkeys(sorted(kept), str(self))

    def __str__(self) -> str:
        return f"every({shown_period(self.steps, self.minutes)})"


@dataclass(frozen=True, slots=True)
class _Either(Keep):
    parts: tuple[Keep, ...]

    def __post_init__(self) -> None:
        self.metrics()

    def keeps(self, records: Sequence[Record]) -> dict[int, str]:
        reasons: dict[int, list[str]] = {}
        for part in self.parts:
            for position, reason in part.keeps(records).items():
                reasons.setdefault(position, []).append(reason)
        return {position: ", ".join(reasons[position]) for position in sorted(reasons)}

    def metrics(self) -> dict[str, str]:
        modes: dict[str, str] = {}
        for part in self.parts:
            for metric, mode in part.metrics().items():
                if modes.setdefault(metric, mode) != mode:
                    raise UsageError(
                        f"the metric {metric!r} cannot be best both ways",
                        found=str(self),
                        cure="A metric has one mode: 'min' or 'max'.",
                    )
        return modes

    def __str__(self) -> str:
        return " | ".join(str(part) for part in self.parts)


def latest(n: int) -> Keep:
    """Keep the ``n`` checkpoints saved last.

    Raises:
        UsageError: ``n`` is no whole number from 1 on.
    """
    return _Latest(checked_count("latest", "n", n))


def best(metric: str, n: int = 1, mode: str = "min") -> Keep:
    """Keep the ``n`` checkpoints with the best ``metric``; of equal ones the newer.

    ``mode`` says whether the smallest (``min``) or the largest (``max``) is best. Checkpoints
    without the metric, and those where it is NaN, are never best.

    Raises:
        UsageError: ``metric`` is no text, ``n`` no whole number from 1 on, or ``mode`` unknown.
    """
    if not isinstance(metric, str) or not metric:
        raise UsageError(
            "best() takes the name of a metric",
            wanted='text, such as best("loss")',
            found=repr(metric),
        )
    if mode not in MODES:
        raise UsageError("best() has two modes", wanted="'min' or 'max'", found=repr(mode))
    return _Best(metric, checked_count("best", "n", n), mode)


def every(*, steps: int | None = None, minutes: float | None = None) -> Keep:
    """Keep one checkpoint for every so many steps, or minutes, or both.

    With ``steps=1000`` the first of all, the first saved when 1000 steps are done, the first when
    2000 are done, and so on (steps count from 0: after step 999, 1000 are done). With
    ``minutes=60`` the first of each hour of UTC. "First" goes by the order of saving: going back to
    an older step, or a clock that is put back, begins anew, and what was kept stays kept.

    Raises:
        UsageError: neither is given, or one is not positive.
    """
    if steps is None and minutes is None:
        raise UsageError("every() takes steps= or minutes=", found="neither")
    return _Every(
        None if steps is None else checked_count("every", "steps", steps),
        None if minutes is None else checked_minutes("every", minutes),
    )


def ranking(metrics: Sequence[Mapping[str, float]], metric: str, mode: str) -> list[int]:
    """The positions that have ``metric``, best first; of equal ones the later first; never NaN."""
    have = [i for i, values in enumerate(metrics) if not math.isnan(values.get(metric, math.nan))]
    sign = 1 if mode == "min" else -1
    return sorted(have, key=lambda i: (sign * metrics[i][metric], -i))


def _parts(policy: Keep) -> tuple[Keep, ...]:
    return policy.parts if isinstance(policy, _Either) else (policy,)


def _firsts(buckets: Sequence[float | None]) -> set[int]:
    """The first position of each stretch in one bucket; None is in no bucket and ends none.

    It is stable: once what lies behind the first of a stretch is gone, the firsts are the same.
    """
    firsts: set[int] = set()
    last: float | None = None
    for position, bucket in enumerate(buckets):
        if bucket is not None and bucket != last:
            firsts.add(position)
            last = bucket
    return firsts


def _bucket_of_steps(record: Record, steps: int) -> int | None:
    return None if record.step is None else (record.step + 1) // steps


def _bucket_of_time(record: Record, minutes: float) -> float | None:
    try:
        time = datetime.fromisoformat((record.time or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return time.timestamp() // (60 * minutes)
