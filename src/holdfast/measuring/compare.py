"""Two tensors beside each other, element by element, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from holdfast.arrays.read import Reader
from holdfast.measuring.blocks import blocks, pairs, wide
from holdfast.report.diff import Sums

Array = np.ndarray[Any, Any]


def compared(a: Any, b: Any, dtypes: tuple[str, str], readers: tuple[Reader, Reader]) -> Sums:
    """The sums of two tensors with as many elements, in C order.

    Raises:
        DamagedError: one is not what was saved.
    """
    total = _Total()
    for left, right in pairs(a, b, readers):
        total.add(left, right, dtypes)
    return total.sums()


class _Total:
    def __init__(self) -> None:
        self.numel = self.changed = self.strange = 0
        self.gap = self.a = self.b = self.dot = self.largest = 0.0

    def add(self, left: Array, right: Array, dtypes: tuple[str, str]) -> None:
        """Add two blocks of as many elements."""
        self.numel += left.size
        if left.dtype == right.dtype and left.tobytes() == right.tobytes():
            with np.errstate(over="ignore", invalid="ignore"):
                self._add_same(wide(left, dtypes[0]))
            return
        a, b = wide(left, dtypes[0]), wide(right, dtypes[1])
        is_other = _bits(left) != _bits(right) if left.dtype == right.dtype else _differ(a, b)
        self.changed += int(np.count_nonzero(is_other))
        is_finite = np.isfinite(a) & np.isfinite(b)
        if not is_finite.all():
            self.strange += int(np.count_nonzero(is_other & ~is_finite))
            a, b = a[is_finite], b[is_finite]
        with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e154 squares are infinite
            gap = a - b
            self.gap += _square(gap)
            self.a += _square(a)
            self.b += _square(b)
            self.dot += float(np.vdot(a, b).real)
        if gap.size:
            self.largest = max(self.largest, float(np.abs(gap).max()))

    def _add_same(self, both: Array) -> None:
        is_finite = np.isfinite(both)
        square = _square(both if is_finite.all() else both[is_finite])
        self.a += square
        self.b += square
        self.dot += square

    def sums(self) -> Sums:
        return Sums(
            self.numel,
            self.changed,
            self.strange,
            self.gap,
            self.a,
            self.b,
            self.dot,
            self.largest,
        )


def _bits(block: Array) -> Array:
    """The elements as whole numbers, so that NaN equals itself and -0.0 is not 0.0."""
    if block.itemsize in (1, 2, 4, 8):
        return block.view(f"u{block.itemsize}")
    return block.view(np.dtype((np.void, block.itemsize)))


def _differ(a: Array, b: Array) -> Array:
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


def _square(numbers: Array) -> float:
    return float(np.vdot(numbers, numbers).real)


def digest(node: Any, reader: Reader) -> bytes:
    """What tells a tensor's elements from others: two with one digest are the same.

    Raises:
        DamagedError: they are not those that were saved.
    """
    made = blake2b(digest_size=16)
    for block in _contiguous(blocks(node, reader)):
        made.update(block.data)
    return made.digest()


def _contiguous(found: Iterator[Array]) -> Iterator[Array]:
    for block in found:
        yield np.ascontiguousarray(block).view(np.uint8)
