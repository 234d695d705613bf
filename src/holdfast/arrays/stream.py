"""Any tensor of a checkpoint as a stream of flat arrays in C order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from holdfast.arrays import dense
from holdfast.arrays.numbers import PACKED, complex_of_halves, dequantized
from holdfast.arrays.read import Reader
from holdfast.spec.cutting import meeting, within
from holdfast.spec.index import ChunkedRef, TensorRef

Array = np.ndarray[Any, Any]

#: One piece; four times as much where the elements lie apart (see ``dense.pieces``), and gathering
#: them takes that again. Two tensors of a pair, two pairs at a time: memory holds eight of these.
PIECE = 4 << 20


def elements(node: Any, reader: Reader) -> Iterator[Array]:
    """The elements of a tensor as the file has them, raw where NumPy has no type for them.

    Memory holds one piece of 4 MiB, or of 16, not the tensor (only sparse tensors and NumPy
    arrays are read whole). What is damaged raises DamagedError at the latest behind the last piece.
    """
    if isinstance(node, TensorRef) and node.dtype.bits < 8:
        if node.storage is not None:
            yield from reader.storages.stream(node.storage, 0, node.storage.nbytes, chunk=PIECE)
    elif isinstance(node, TensorRef):
        found = dense.pieces(node, reader.storages, nbytes=PIECE)
        yield from map(partial(_resolved, node), found)  # which keeps no piece while it asks on
    elif isinstance(node, ChunkedRef):
        yield from _chunked(node, reader)
    else:
        yield from _whole(node, reader)


def numbers(node: Any, reader: Reader) -> Iterator[Array]:
    """The numbers of a tensor: as ``elements``, but quantized tensors are dequantized.

    Those with a scale for each channel, and packed ones, are read whole.
    """
    if isinstance(node, TensorRef) and _has_one_scale(node):
        quantizer = node.quantizer
        assert quantizer is not None
        for piece in dense.pieces(node, reader.storages, nbytes=PIECE):
            yield dequantized(piece, quantizer.scale, quantizer.zero_point, None)
    elif isinstance(node, TensorRef) and (node.quantizer is not None or node.dtype.bits < 8):
        yield from _whole(node, reader)
    else:
        yield from elements(node, reader)


def _has_one_scale(ref: TensorRef) -> bool:
    is_one = ref.quantizer is not None and isinstance(ref.quantizer.scale, int | float)
    return is_one and ref.dtype.name not in PACKED


def _whole(node: Any, reader: Reader) -> Iterator[Array]:
    array = np.ascontiguousarray(reader.array(node)).reshape(-1)
    step = max(1, PIECE // max(1, array.itemsize))
    for at in range(0, array.size, step):
        yield array[at : at + step]


def _resolved(ref: TensorRef, piece: Array) -> Array:
    """Conjugated and negated where the reference says so; halves stay halves."""
    if not (ref.is_conj or ref.is_neg):
        return piece
    if ref.dtype.name == "complex32":
        halves = complex_of_halves(piece).view(np.float32).astype(np.float16).reshape(-1, 2)
        halves *= np.array([-1 if ref.is_neg else 1, 1 - 2 * (ref.is_conj ^ ref.is_neg)], "f2")
        return np.ascontiguousarray(halves).view(piece.dtype).reshape(-1)
    made = np.conjugate(piece) if ref.is_conj else piece
    return np.negative(made) if ref.is_neg else made


#: From where to where along each axis.
_Window: TypeAlias = tuple[tuple[int, int], ...]


def _chunked(ref: ChunkedRef, reader: Reader) -> Iterator[Array]:
    """The elements in order, window by window, each gathered from the pieces that meet it."""
    if ref.numel:
        for window in _windows(ref.shape, max(1, PIECE // ref.dtype.itemsize)):
            yield _gathered(ref, reader, window).reshape(-1)


def _windows(shape: tuple[int, ...], most: int) -> Iterator[_Window]:
    """Windows of at most so many elements that follow each other in C order."""
    axes = range(len(shape))
    axis = next((axis for axis in axes if math.prod(shape[axis + 1 :]) <= most), None)
    if axis is None:  # a tensor without axes is one element
        yield ()
        return
    inner = tuple((0, size) for size in shape[axis + 1 :])
    rows = max(1, most // max(1, math.prod(shape[axis + 1 :])))
    for lead in itertools.product(*map(range, shape[:axis])):
        outer = tuple((at, at + 1) for at in lead)
        for at in range(0, shape[axis], rows):
            yield (*outer, (at, min(at + rows, shape[axis])), *inner)


def _gathered(ref: ChunkedRef, reader: Reader, window: _Window) -> Array:
    made: Array | None = None
    for chunk in ref.chunks:
        meets = meeting(chunk, window)
        if meets is None:
            continue
        piece = within(chunk, meets)
        data = _resolved(piece, dense.array(piece, reader.storages))
        if made is None:
            made = np.empty([stop - start for start, stop in window], data.dtype)
        box = zip(meets, window, strict=True)
        made[tuple(slice(low - a, high - a) for (low, high), (a, _) in box)] = data
    assert made is not None  # the pieces tile the tensor
    return made
