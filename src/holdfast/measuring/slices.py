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
from holdfast.spec.index import TensorRef

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


def slice_of(node: Any, reader: Reader, index: Sequence[int] = ()) -> Slice:
    """The slice at ``index`` along the axes before the last two; a vector is one row.

    Raises:
        UsageError: it has no numbers, or there is no such place.
        DamagedError: its bytes are not those that were saved.
    """
    shape = shape_of(node)
    why = without_numbers(node)
    if why is not None or not math.prod(shape):
        raise UsageError(
            "there is nothing to draw of this tensor", found=why or f"shape {list(shape)}"
        )
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
    numbers = real(np.ascontiguousarray(plane), dtype_of(node))
    values = [[each if math.isfinite(each) else None for each in row] for row in numbers.tolist()]
    return Slice(shape, at, steps, tuple(map(tuple, values)))


def _plane(
    node: Any, reader: Reader, at: tuple[int, ...], steps: tuple[int, int], sides: tuple[int, int]
) -> Any:
    """The thinned rows and columns; of a dense torch tensor only these are read, others whole."""
    is_plain = isinstance(node, TensorRef) and node.quantizer is None and node.dtype.bits >= 8
    if not is_plain:
        return reader.array(node).reshape(*shape_of(node)[:-2], *sides)[at][
            :: steps[0], :: steps[1]
        ]
    stride = (0, 0, *node.stride)[-2:] if len(node.shape) < 2 else node.stride[-2:]
    offset = node.offset + sum(i * s for i, s in zip(at, node.stride, strict=False))
    thinned = (-(-sides[0] // steps[0]), -(-sides[1] // steps[1]))
    strides = (stride[0] * steps[0], stride[1] * steps[1])
    cut = TensorRef(node.dtype, thinned, strides, node.storage, offset)
    cut.is_conj, cut.is_neg = node.is_conj, node.is_neg
    return reader.array(cut)
