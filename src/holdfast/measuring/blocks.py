"""The elements of any tensor as flat blocks that stay in the processor's cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast.arrays import stream
from holdfast.arrays.numbers import complex_of_halves
from holdfast.arrays.read import Reader
from holdfast.spec.index import ArrayRef, ChunkedRef, SparseRef, TensorRef

Array = np.ndarray[Any, Any]

#: Elements of one block: as float64 64 KiB, which the processor's cache holds, and the allocator
#: gives again. Larger ones are fresh pages each time, and those take longer than the sums.
BLOCK = 1 << 13

#: A tensor with more elements than this many times those in its storage overlaps itself: a file of
#: a few bytes can describe any number of them.
_MOST_OVERLAP = 8


def blocks(node: Any, reader: Reader) -> Iterator[Array]:
    """The elements in C order; quantized tensors dequantized, raw where NumPy has no type.

    Raises:
        DamagedError: they are not those that were saved, at the latest behind the last block.
    """
    for piece in stream.numbers(node, reader):
        for at in range(0, piece.size, BLOCK):
            yield piece[at : at + BLOCK]


def pairs(a: Any, b: Any, readers: tuple[Reader, Reader]) -> Iterator[tuple[Array, Array]]:
    """Blocks of two tensors with as many elements, each pair with as many."""
    left, right = _Cursor(stream.numbers(a, readers[0])), _Cursor(stream.numbers(b, readers[1]))
    while all([left.fill(), right.fill()]):  # both, as the end of a stream checks its CRC
        size = min(BLOCK, left.rest, right.rest)
        yield left.take(size), right.take(size)


class _Cursor:
    """Takes any number of elements from a stream of pieces."""

    def __init__(self, pieces: Iterator[Array]) -> None:
        self._pieces, self._piece, self._at = pieces, np.empty(0), 0

    @property
    def rest(self) -> int:
        """What is left of this piece."""
        return self._piece.size - self._at

    def fill(self) -> bool:
        """Whether there is more; the end of a stream checks what it has read."""
        while not self.rest:
            self._piece, self._at = self._piece[:0].copy(), 0  # not kept while the next is made
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._at = piece, 0
        return True

    def take(self, size: int) -> Array:
        self._at += size
        return self._piece[self._at - size : self._at]


def real(block: Array, dtype: str) -> Array:
    """A block as float64; of complex numbers their magnitudes, NaN where one part is."""
    if dtype == "complex32":
        block = complex_of_halves(block)
    if block.dtype.kind != "c":
        return block.astype(np.float64)
    made = np.abs(block.astype(np.complex128))
    made[np.isnan(block)] = np.nan
    return made


def wide(block: Array, dtype: str) -> Array:
    """A block as float64, or complex128 where it is complex.

    Integers of 64 bits become long doubles, which hold all of them where they have 80 bits.
    """
    if dtype == "complex32":
        block = complex_of_halves(block)
    if block.dtype.kind in "iu" and block.itemsize == 8:
        return block.astype(np.longdouble)
    return block.astype(np.complex128 if block.dtype.kind == "c" else np.float64)


def dtype_of(node: Any) -> str:
    """Torch's name of the element type, or NumPy's text of it."""
    return node.dtype_str if isinstance(node, ArrayRef) else str(node.dtype.name)


def shape_of(node: Any) -> tuple[int, ...]:
    """Its shape as plain numbers."""
    return tuple(node.shape)


def without_numbers(node: Any) -> str | None:
    """Why a tensor has no numbers to measure; None for one that has."""
    if isinstance(node, ArrayRef):
        return None if node.dtype_str[1:2] in "biufc" else f"an array of {node.dtype_str}"
    if isinstance(node, SparseRef):
        return without_numbers(node.components["values"])
    if isinstance(node, TensorRef) and node.storage is None and node.numel:
        return "a meta tensor, which has no values"
    if not node.dtype.is_quantized and node.dtype.numpy_name is None:
        known = node.dtype.name == "complex32" or node.dtype.name.startswith(("int", "uint"))
        return None if known else f"{node.dtype.name} is packed bits"
    there = _stored_numel(node)
    if node.numel > _MOST_OVERLAP * max(1, there):
        return f"it overlaps itself: {node.numel:,} elements in {there:,}"
    return None


def _stored_numel(node: TensorRef | ChunkedRef) -> int:
    """How many elements have bytes, at most."""
    if isinstance(node, ChunkedRef):
        return sum(_stored_numel(chunk.ref) for chunk in node.chunks)
    return node.numel if node.storage is None else node.storage.numel


def stored(node: Any) -> Any:
    """The tensor without axes of one element, and without those that the file only expands.

    (Their stride is 0, and their elements repeat.) The order of the elements is the same, and no
    tensor that is left has more axes than NumPy knows.
    """
    if not isinstance(node, TensorRef) or not node.numel:
        return node
    axes = zip(node.shape, node.stride, strict=True)
    kept = [(size, step) for size, step in axes if size > 1 and step]
    shape, stride = (tuple(each[side] for each in kept) for side in (0, 1))
    return replace(node, shape=shape, stride=stride) if len(kept) < len(node.shape) else node


def is_expanded(node: Any) -> bool:
    """Whether the file has fewer elements than the shape says, as an axis has stride 0."""
    if not isinstance(node, TensorRef):
        return False
    return any(size > 1 and not step for size, step in zip(node.shape, node.stride, strict=True))


def numel_of(node: Any) -> int:
    """How many elements it has."""
    if isinstance(node, TensorRef | ChunkedRef):
        return node.numel
    return math.prod(node.shape)
