"""Statistics of tensors, read once and piece by piece, several tensors at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from holdfast.arrays.read import Reader
from holdfast.errors import DamagedError, RefusedError, TruncatedError, UsageError
from holdfast.measuring.blocks import (
    blocks,
    dtype_of,
    is_expanded,
    numel_of,
    real,
    shape_of,
    stored,
    without_numbers,
)
from holdfast.measuring.moments import Histogram, Moments
from holdfast.measuring.parallel import in_parallel
from holdfast.report.leaves import Leaf
from holdfast.report.stats import Bins, Flag, TensorStats, flagged
from holdfast.spec.index import SparseRef

Array = np.ndarray[Any, Any]

#: Rows of which it is noted whether they are zero; of more, nothing is said.
_MOST_ROWS = 1 << 26


def all_stats(
    found: Sequence[Leaf], reader: Reader, *, on_progress: Callable[[int], object] | None = None
) -> tuple[TensorStats, ...]:
    """The statistics of tensors, flagged, in order.

    ``on_progress`` is called with the bytes of each tensor when it is done, from several threads.
    """

    def measured(leaf: Leaf) -> TensorStats:
        made = stats_of(leaf, reader)
        if on_progress is not None:
            on_progress(_nbytes_of(leaf))
        return made

    return tuple(flagged(list(in_parallel(measured, found, _nbytes_of))))


def _nbytes_of(leaf: Leaf) -> int:
    """The bytes that are read of a tensor."""
    return int(stored(leaf.value).nbytes)


def stats_of(leaf: Leaf, reader: Reader) -> TensorStats:
    """The statistics of one tensor, not yet flagged but as unreadable."""
    node = leaf.value
    empty = TensorStats(leaf.name, leaf.part, dtype_of(node), shape_of(node), numel_of(node))
    node = _measured(node)
    why = without_numbers(node)
    if why is not None:
        return replace(empty, why=why)
    meter = _Meter(empty.dtype, _rows_of(leaf.value))
    try:
        with np.errstate(all="ignore"):  # NaN, and what is too large, are what is looked for
            for block in blocks(node, reader):
                meter.add(block)
    except (DamagedError, TruncatedError, RefusedError) as error:
        return replace(empty, why=error.what, flags=(Flag("unreadable", error.what),))
    except (
        UsageError
    ) as error:  # a shape that NumPy has not, a sparse tensor too large as a dense one
        return replace(empty, why=error.what)
    return replace(empty, **meter.result())


def _measured(node: Any) -> Any:
    """What of a tensor is measured: of a sparse one what it stores."""
    return stored(node.components["values"] if isinstance(node, SparseRef) else node)


def _rows_of(node: Any) -> tuple[int, int]:
    """How many rows a tensor has, and how long they are; (0, 0) where rows mean nothing."""
    shape = shape_of(node)
    is_plain = not isinstance(node, SparseRef) and not is_expanded(node)
    if not is_plain or len(shape) < 2 or not 1 < shape[0] <= _MOST_ROWS or 0 in shape:
        return 0, 0
    return shape[0], math.prod(shape[1:])


@dataclass(slots=True)
class _Meter:
    """Takes the blocks of one tensor."""

    dtype: str
    rows: tuple[int, int]
    counted: int = 0
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    subnormals: int = 0
    moments: Moments = field(default_factory=Moments)
    histogram: Histogram = field(default_factory=Histogram)
    whole: tuple[int, int] | None = None  # of integers the least and the largest, exactly
    alive: Array | None = None
    tiny: float | None = None

    def add(self, block: Array) -> None:
        numbers = real(block, self.dtype)
        if not self.counted:
            self.tiny = _smallest_normal(block.dtype, self.dtype)
            self.alive = np.zeros(self.rows[0], bool) if self.rows[1] > 1 else None
        if block.dtype.kind in "iu" and self.dtype != "complex32":
            low, high = int(block.min()), int(block.max())
            known = self.whole or (low, high)
            self.whole = min(low, known[0]), max(high, known[1])
        is_other = numbers != 0
        zeros = numbers.size - int(np.count_nonzero(is_other))
        self._note_rows(is_other)
        self.zeros += zeros
        self.counted += numbers.size
        if not np.isfinite(numbers.sum()):  # faster than asking each; it may also be too large
            self.nans += int(np.count_nonzero(np.isnan(numbers)))
            self.infs += int(np.count_nonzero(np.isinf(numbers)))
            numbers = numbers[np.isfinite(numbers)]
        if self.tiny is not None:
            self.subnormals += int(np.count_nonzero(np.abs(numbers) < self.tiny)) - zeros
        self.moments.add(numbers)
        self.histogram.add(numbers)

    def _note_rows(self, is_other: Array) -> None:
        """Which rows have a number that is not zero."""
        if self.alive is None:
            return
        length = self.rows[1]
        first = self.counted // length
        starts = np.arange(first, -(-(self.counted + is_other.size) // length)) * length
        places = np.maximum(starts - self.counted, 0)
        self.alive[first : first + places.size] |= np.logical_or.reduceat(is_other, places)

    def result(self) -> dict[str, Any]:
        found = self.moments
        values: dict[str, Any] = {
            name: getattr(self, name) for name in ("counted", "zeros", "nans", "infs", "subnormals")
        }
        if found.count:
            low, high = self.whole or (found.low, found.high)
            values |= {"minimum": low, "maximum": high, "mean": float(found.mean), "std": found.std}
            values |= {"norm": found.norm}
        if self.alive is not None:
            values["dead_rows"] = int(self.alive.size - np.count_nonzero(self.alive))
        counts = tuple(self.histogram.counts.tolist())
        return {**values, "histogram": Bins(tuple(self.histogram.edges()), counts)}


def _smallest_normal(kind: np.dtype[Any], dtype: str) -> float | None:
    """The least normal number of a type; None where it has none, or consists of few others."""
    import ml_dtypes

    if dtype == "complex32":
        kind = np.dtype(np.float16)
    elif kind.kind == "c":
        kind = np.dtype(f"f{kind.itemsize // 2}")
    if kind.itemsize < 2 or kind.kind in "iub":
        return None
    return float(ml_dtypes.finfo(kind).smallest_normal)  # type: ignore[no-untyped-call]
