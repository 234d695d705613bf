"""Any tensor of a checkpoint as a stream of flat arrays in C order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from holdfast.arrays import dense
from holdfast.arrays.dense import PIECE
from holdfast.arrays.numbers import PACKED, complex_of_halves, dequantized
from holdfast.arrays.read import Reader
from holdfast.spec.index import ChunkedRef, TensorRef

Array = np.ndarray[Any, Any]


def elements(node: Any, reader: Reader) -> Iterator[Array]:
    """The elements of a tensor as the file has them, raw where NumPy has no type for them.

    Memory holds one piece of about 8 MiB, not the tensor (only sparse tensors and NumPy arrays are
    read whole). What is damaged raises DamagedError at the latest behind the last piece.
    """
    if isinstance(node, TensorRef) and node.dtype.bits < 8:
        if node.storage is not None:
            yield from reader.storages.stream(node.storage, 0, node.storage.nbytes, chunk=PIECE)
    elif isinstance(node, TensorRef):
        for piece in dense.pieces(node, reader.storages):
            yield _resolved(node, piece)
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
        for piece in dense.pieces(node, reader.storages):
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


def _chunked(ref: ChunkedRef, reader: Reader) -> Iterator[Array]:
    """Rows of the whole tensor, each block gathered from the pieces that meet it."""
    if ref.numel == 0:
        return
    axis = next((axis for axis, size in enumerate(ref.shape) if size > 1), 0)
    row = math.prod(ref.shape[axis + 1 :]) * ref.dtype.itemsize
    rows = max(1, PIECE // max(1, row))
    size = ref.shape[axis] if ref.shape else 1
    for at in range(0, size, rows):
        yield _block(ref, reader, axis, at, min(at + rows, size)).reshape(-1)


def _block(ref: ChunkedRef, reader: Reader, axis: int, start: int, stop: int) -> Array:
    shape = (*ref.shape[:axis], stop - start, *ref.shape[axis + 1 :]) if ref.shape else ()
    made: Array | None = None
    for chunk in ref.chunks:
        piece, offsets = chunk.ref, chunk.offsets
        if ref.shape:
            low = max(start, offsets[axis])
            high = min(stop, offsets[axis] + piece.shape[axis])
            if low >= high:
                continue
            piece = _rows(piece, axis, low - offsets[axis], high - offsets[axis])
            offsets = (*offsets[:axis], low - start, *offsets[axis + 1 :])
        data = _resolved(piece, dense.array(piece, reader.storages))
        made = np.empty(shape, data.dtype) if made is None else made
        box = zip(offsets, data.shape, strict=True)
        made[tuple(slice(at, at + size) for at, size in box)] = data
    assert made is not None  # the pieces tile the tensor
    return made


def _rows(ref: TensorRef, axis: int, start: int, stop: int) -> TensorRef:
    shape = (*ref.shape[:axis], stop - start, *ref.shape[axis + 1 :])
    offset = ref.offset + start * ref.stride[axis]
    cut = TensorRef(ref.dtype, shape, ref.stride, ref.storage, offset)
    cut.is_conj, cut.is_neg = ref.is_conj, ref.is_neg
    return cut
