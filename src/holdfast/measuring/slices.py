"""A tensor as a picture: a two-dimensional slice of it, thinned out where it is large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.arrays.read import Reader
from holdfast.errors import UsageError
from holdfast.measuring.blocks import dtype_of, real, shape_of, without_numbers
from holdfast.spec.index import ChunkedRef, TensorRef

#: Rows and columns of a picture at most.
SIDE = 160


@dataclass(frozen=True, slots=True)
class Slice:
    """Numbers of a slice: every ``steps[0]``-th row and ``steps[1]``-th column of it.

    ``index`` are the places along the axes before the last two; ``values`` are rows of numbers,
    None where one is not finite.
    """

    shape: tuple[int, ...]
    index: tuple[int, ...]
    steps: tuple[int, int]
    values: tuple[tuple[float | None, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "shape": list(self.shape),
            "index": list(self.index),
            "steps": list(self.steps),
            "values": [list(row) for row in self.values],
        }


def without_picture(node: Any) -> str | None:
    """Why there is nothing to draw of a tensor; None where there is."""
    shape = shape_of(node)
    return without_numbers(node) or (None if math.prod(shape) else f"shape {list(shape)}")


def slice_of(node: Any, reader: Reader, index: Sequence[int] = ()) -> Slice:
    """The slice at ``index`` along the axes before the last two; a vector is one row.

    Raises:
        UsageError: it has no numbers, or there is no such place.
        DamagedError: its bytes are not those that were saved.
    """
    shape = shape_of(node)
    why = without_picture(node)
    if why is not None:
        raise UsageError("there is nothing to draw of this tensor", found=why)
    lead = shape[:-2]
    at = tuple(index) or (0,) * len(lead)
    if len(at) != len(lead) or not all(0 <= i < size for i, size in zip(at, lead, strict=True)):
        raise UsageError(
            "the tensor has no such slice",
            wanted=f"{len(lead)} places below {list(lead)}",
            found=str(list(at))[:100],
        )
    rows, columns = (1, *shape)[-2:] if shape else (1, 1)
    steps = (-(-rows // SIDE), -(-columns // SIDE))
    plane = _plane(node, reader, at, steps, (rows, columns))
    with np.errstate(all="ignore"):  # a signalling NaN is one that a conversion quietens
        numbers = real(np.ascontiguousarray(plane), dtype_of(node))
    values = [[each if math.isfinite(each) else None for each in row] for row in numbers.tolist()]
    return Slice(shape, at, steps, tuple(map(tuple, values)))


def _plane(
    node: Any, reader: Reader, at: tuple[int, ...], steps: tuple[int, int], sides: tuple[int, int]
) -> Any:
    """The thinned rows and columns; of a dense tensor, in pieces too, only these are read."""
    if isinstance(node, ChunkedRef):
        return _of_chunks(node, reader, at, steps, sides)
    if not isinstance(node, TensorRef) or node.quantizer is not None or node.dtype.bits < 8:
        whole = reader.array(node).reshape(*shape_of(node)[:-2], *sides)
        return whole[at][:: steps[0], :: steps[1]]
    return reader.array(_thinned(node, at, steps, (0, 0), sides))


def _thinned(
    ref: TensorRef,
    at: tuple[int, ...],
    steps: tuple[int, int],
    starts: tuple[int, int],
    sides: tuple[int, int],
) -> TensorRef:
    """Every so many rows and columns of a plane of a tensor, from ``starts`` on."""
    stride = (0, 0, *ref.stride)[-2:]  # a vector is one row, a number one column of it
    offset = ref.offset + sum(i * step for i, step in zip(at, ref.stride, strict=False))
    offset += sum(start * step for start, step in zip(starts, stride, strict=True))
    shape = tuple(-(-(n - start) // s) for n, start, s in zip(sides, starts, steps, strict=True))
    cut = TensorRef(
        ref.dtype, shape, (stride[0] * steps[0], stride[1] * steps[1]), ref.storage, offset
    )
    cut.is_conj, cut.is_neg = ref.is_conj, ref.is_neg
    return cut


def _of_chunks(
    node: ChunkedRef,
    reader: Reader,
    at: tuple[int, ...],
    steps: tuple[int, int],
    sides: tuple[int, int],
) -> Any:
    """The same of a tensor in pieces, from each piece that meets the plane."""
    made: Any = None
    for chunk in node.chunks:
        shape, offsets = chunk.ref.shape, chunk.offsets
        lead = [i - low for i, low in zip(at, offsets, strict=False)]
        if not all(0 <= i < size for i, size in zip(lead, shape, strict=False)):
            continue
        low = (0, 0, *offsets)[-2:]
        inner = (1, 1, *shape)[-2:]
        first = tuple(-(-a // step) for a, step in zip(low, steps, strict=True))
        starts = (first[0] * steps[0] - low[0], first[1] * steps[1] - low[1])
        if starts[0] >= inner[0] or starts[1] >= inner[1]:
            continue  # it lies between two rows, or columns, that are drawn
        data = reader.array(_thinned(chunk.ref, tuple(lead), steps, starts, (inner[0], inner[1])))
        if made is None:
            made = np.zeros([-(-n // s) for n, s in zip(sides, steps, strict=True)], data.dtype)
        rows, columns = data.shape
        made[first[0] : first[0] + rows, first[1] : first[1] + columns] = data
    return made
