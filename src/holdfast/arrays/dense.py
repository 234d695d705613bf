"""Dense tensors as NumPy arrays, whole or piece by piece, from any stride."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from holdfast.arrays.kinds import kind_of
from holdfast.arrays.storages import Storages
from holdfast.spec.dtypes import DType
from holdfast.spec.index import TensorRef

Array = np.ndarray[Any, Any]

#: One piece of a stream.
PIECE = 8 << 20
#: A box of a tensor whose elements lie apart is larger than a piece: its rows are longer then.
_BOX = 4
#: What is read beyond the elements wanted, so that rows need no call each.
_WASTE, _LEAST_SPAN = 4, 1 << 16
_LARGEST_SPAN = 64 << 20


def array(ref: TensorRef, storages: Storages) -> Array:
    """The elements of a tensor in its raw element type (see ``kinds``), in memory of their own.

    An axis that the file expands (stride 0) is expanded here too, without memory: such an array
    is read-only.
    """
    shape = tuple(
        1 if step == 0 and size else size for size, step in zip(ref.shape, ref.stride, strict=True)
    )
    raw = kind_of(ref.dtype)
    reach = span(shape, ref.stride)
    if math.prod(shape) * raw.itemsize > _WASTE * reach * raw.itemsize + _LEAST_SPAN:
        made = _view(ref, storages, ref.offset, shape, ref.stride)  # views of one another
        made.flags.writeable = False
    else:
        made = np.empty(shape, raw)
        _fill(made, ref, storages, ref.offset, ref.stride)
    return made if shape == tuple(ref.shape) else np.broadcast_to(made, ref.shape)


def pieces(ref: TensorRef, storages: Storages, *, nbytes: int = PIECE) -> Iterator[Array]:
    """The elements in C order as flat arrays of about ``nbytes`` bytes, or four times as many.

    A damaged storage raises DamagedError before the stream ends, at the latest behind its last
    piece: use nothing of it before.
    """
    raw = kind_of(ref.dtype)
    if ref.storage is None or ref.numel == 0:
        return
    if is_contiguous(ref):
        start = ref.offset * raw.itemsize
        for data in storages.stream(
            ref.storage, start, start + ref.numel * raw.itemsize, chunk=_multiple(nbytes, raw)
        ):
            yield _ordered(data.view(raw), ref.dtype, storages)
        return
    storages.check(ref.storage)
    numel = nbytes * _BOX // raw.itemsize
    for offset, shape, stride in _boxes(ref.offset, ref.shape, ref.stride, numel):
        box = TensorRef(ref.dtype, shape, stride, ref.storage, offset)
        yield np.ascontiguousarray(array(box, storages)).reshape(-1)


def is_contiguous(ref: TensorRef) -> bool:
    """Whether the elements lie one behind the other in C order."""
    step = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.stride), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _multiple(nbytes: int, raw: np.dtype[Any]) -> int:
    return max(1, nbytes // raw.itemsize) * raw.itemsize


def _boxes(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...], numel: int
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Cut a view along its first axes into boxes of at most ``numel`` elements, in C order."""
    if math.prod(shape) <= max(1, numel):
        yield offset, shape, stride
        return
    row = math.prod(shape[1:])
    if row > numel:
        for at in range(shape[0]):
            yield from _boxes(offset + at * stride[0], shape[1:], stride[1:], numel)
        return
    rows = max(1, numel // max(1, row))
    for at in range(0, shape[0], rows):
        size = min(rows, shape[0] - at)
        yield offset + at * stride[0], (size, *shape[1:]), stride


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _fill(
    made: Array, ref: TensorRef, storages: Storages, offset: int, stride: tuple[int, ...]
) -> None:
    """Read a strided view into ``made``; what lies far apart is read row by row."""
    if made.size == 0:
        return
    reach = span(made.shape, stride) * made.itemsize
    if reach <= _WASTE * made.nbytes + _LEAST_SPAN and (reach <= _LARGEST_SPAN or made.ndim <= 1):
        made[...] = _view(ref, storages, offset, made.shape, stride)
        return
    if _is_dense(made.shape, stride):
        made[...] = _view(ref, storages, offset, made.shape, stride)
        return
    outer = max(range(made.ndim), key=lambda axis: (made.shape[axis] > 1, stride[axis]))
    rest = made.shape[:outer] + made.shape[outer + 1 :]
    steps = stride[:outer] + stride[outer + 1 :]
    if _is_dense(rest, steps):
        rows = _rows(ref, storages, offset, stride[outer], made.shape[outer], rest, steps)
        made[...] = np.moveaxis(rows, 0, outer)
        return
    for at in range(made.shape[outer]):
        # A slice, then its axis off: a plain index could give a number, not a view to fill.
        row = made[(slice(None),) * outer + (slice(at, at + 1),)].reshape(rest)
        _fill(row, ref, storages, offset + at * stride[outer], steps)


def _rows(
    ref: TensorRef,
    storages: Storages,
    offset: int,
    step: int,
    count: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> Array:
    """``count`` runs of elements that lie ``step`` apart, each of a dense shape."""
    raw = kind_of(ref.dtype)
    assert ref.storage is not None
    nbytes = math.prod(shape) * raw.itemsize
    starts = range(
        offset * raw.itemsize, (offset + count * step) * raw.itemsize, step * raw.itemsize
    )
    data = storages.read_rows(ref.storage, starts, nbytes)
    flat = _ordered(data.view(raw), ref.dtype, storages)
    steps = (nbytes, *(each * raw.itemsize for each in stride))
    return np.ndarray((count, *shape), raw, flat.view(np.uint8), 0, steps)


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    return span(shape, stride) == math.prod(shape)


def _view(
    ref: TensorRef,
    storages: Storages,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> Array:
    raw = kind_of(ref.dtype)
    if ref.storage is None or 0 in shape:
        return np.empty(shape, raw)
    start = offset * raw.itemsize
    data = storages.read(ref.storage, start, start + span(shape, stride) * raw.itemsize)
    flat = _ordered(data.view(raw), ref.dtype, storages)
    steps = tuple(step * raw.itemsize for step in stride)
    # Not as_strided: it does not know the types of ml_dtypes.
    return np.ndarray(shape, raw, flat.view(np.uint8), 0, steps)


def _ordered(flat: Array, dtype: DType, storages: Storages) -> Array:
    """Elements in this machine's byte order; the parts of complex numbers are swapped each."""
    width = flat.itemsize // (2 if dtype.is_complex else 1)
    if storages.index.byteorder == sys.byteorder or width == 1:
        return flat
    return flat.view(f"u{width}").byteswap().view(flat.dtype)
