"""Two tensors beside each other, element by element, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np

from holdfast.arrays import stream
from holdfast.arrays.read import Reader
from holdfast.measuring.blocks import blocks, pairs, wide
from holdfast.measuring.moments import reaching
from holdfast.report.diff import Sums

Array = np.ndarray[Any, Any]


def compared(a: Any, b: Any, dtypes: tuple[str, str], readers: tuple[Reader, Reader]) -> Sums:
    """The sums of two tensors with as many elements, in C order.

    Raises:
        DamagedError: one is not what was saved.
    """
    total = _Total()
    with np.errstate(all="ignore"):  # NaN is compared, too
        for left, right in pairs(a, b, readers):
            total.add(left, right, dtypes)
    return total.sums()


class _Total:
    def __init__(self) -> None:
        self.numel = self.changed = self.strange = 0
        self.gap: Any = 0.0
        self.a: Any = 0.0
        self.b: Any = 0.0
        self.dot: Any = 0.0
        self.largest = 0.0

    def add(self, left: Array, right: Array, dtypes: tuple[str, str]) -> None:
        """Add two blocks of as many elements."""
        self.numel += left.size
        is_one_kind = left.dtype == right.dtype
        a, b = wide(left, dtypes[0]), wide(right, dtypes[1])
        is_other = _bits(left) != _bits(right) if is_one_kind else _differ(a, b)
        changed = int(np.count_nonzero(is_other))
        self.changed += changed
        is_finite = np.isfinite(a) & np.isfinite(b)
        if not is_finite.all():
            self.strange += int(np.count_nonzero(is_other & ~is_finite))
            a, b = a[is_finite], b[is_finite]
        if not a.size:
            return
        sizes = float(np.abs(a).max()), float(np.abs(b).max())
        a, b = (reaching(each, max(sizes)) for each in (a, b))
        self.a += _product(a, a)
        self.b += _product(b, b)
        self.dot += _product(a, b)
        if changed:
            gap = a - b
            self.gap += _product(gap, gap)
            self.largest = max(self.largest, float(np.abs(gap).max()))

    def sums(self) -> Sums:
        """The sums of all blocks."""
        sums = (self.gap, self.a, self.b, self.dot)
        return Sums(self.numel, self.changed, self.strange, *sums, self.largest)


def _bits(block: Array) -> Array:
    """The elements as whole numbers, so that NaN equals itself and -0.0 is not 0.0."""
    if block.itemsize in (1, 2, 4, 8):
        return block.view(f"u{block.itemsize}")
    return block.view(np.dtype((np.void, block.itemsize)))


def _differ(a: Array, b: Array) -> Array:
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


def _product(a: Array, b: Array) -> Any:
    """The real part of the inner product."""
    return np.vdot(a, b).real


def digest(node: Any, reader: Reader) -> bytes:
    """What tells a tensor's numbers from others: two of one type with one digest are the same.

    Raises:
        DamagedError: they are not those that were saved.
    """
    return _hashed(blocks(node, reader))


def raw_digest(node: Any, reader: Reader) -> bytes:
    """The same of its elements as the file has them, for types that NumPy has no numbers for."""
    return _hashed(stream.elements(node, reader))


def _hashed(pieces: Iterable[Array]) -> bytes:
    made = blake2b(digest_size=16)
    for piece in pieces:
        made.update(np.ascontiguousarray(piece).view(np.uint8).data)
    return made.digest()
