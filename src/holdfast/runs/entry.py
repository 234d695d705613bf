"""One checkpoint of a run folder, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast.errors import HoldfastError
from holdfast.spec.record import Record

#: What a checkpoint's place in the run was found by.
OrderBy = Literal["sequence", "step", "epoch", "time"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint of a run folder: what its headers say, or why they cannot be read.

    ``record`` is None where other code wrote it, ``problem`` the reason why it cannot be read.
    ``nbytes`` is its size on disk, ``mtime`` its file time (seconds since 1970). ``step`` is the
    step or epoch it holds, if that is known. ``order_by`` says what its place was found by.
    """

    path: Path
    record: Record | None = None
    problem: HoldfastError | None = None
    is_pinned: bool = False
    nbytes: int = 0
    mtime: float = 0.0
    step: int | None = None
    order_by: OrderBy = "time"

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.name

    @property
    def id(self) -> str | None:
        """The record's id; None without a record."""
        return None if self.record is None else self.record.id

    @property
    def sequence(self) -> int | None:
        """The count that orders a run; None where no run of holdfast saved it."""
        return None if self.record is None else self.record.sequence

    @property
    def metrics(self) -> Mapping[str, float]:
        """The record's metrics; empty without a record."""
        return {} if self.record is None else self.record.metrics

    def to_json(self) -> dict[str, Any]:
        """The facts of one line of ``holdfast list``, as JSON values."""
        record = {} if self.record is None else self.record.to_json()
        return {
            "name": self.name,
            "path": str(self.path),
            "step": self.step,
            "order_by": self.order_by,
            **{key: record.get(key) for key in ("id", "sequence", "parent", "time")},
            "metrics": record.get("metrics", {}),
            "nbytes": self.nbytes,
            "mtime": self.mtime,
            "is_pinned": self.is_pinned,
            "problem": None if self.problem is None else str(self.problem),
        }
