"""Any tensor of a checkpoint as a NumPy array; only the bytes that it needs are read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from holdfast.arrays import dense, numbers, values
from holdfast.arrays.sparse import densified
from holdfast.arrays.storages import Storages
from holdfast.errors import UsageError
from holdfast.io.source import Source
from holdfast.spec.index import (
    ChunkedRef,
    Index,
    NumpyScalar,
    SparseRef,
    TensorRef,
)

Array = np.ndarray[Any, Any]

#: NumPy 1 has arrays of 32 axes at most, NumPy 2 of 64.
_MOST_AXES = 64 if int(np.__version__.partition(".")[0]) > 1 else 32
_MOST_NBYTES_OF_AN_ELEMENT = 16


class Reader:
    """Reads tensors of one checkpoint as arrays; ``verify`` checks every CRC before use."""

    def __init__(self, index: Index, source: Source, *, verify: bool = True) -> None:
        self._file = index.file
        self.storages = Storages(index, source, verify=verify)

    def array(self, node: Any) -> Array:
        """The array of a reference.

        Types that NumPy lacks: bf16, fp8 and fp6 are those of ml_dtypes; ``complex32`` becomes
        complex64; quantized tensors become float32, dequantized; sparse ones dense; ``int1`` to
        ``int7`` are int8, bit types and packed fp4 the bytes of the file.

        Raises:
            DamagedError: bytes are not those that were saved.
            UsageError: it has no bytes (a meta tensor).
        """
        self._check_shape(node)
        if isinstance(node, TensorRef):
            return self._tensor(node)
        if isinstance(node, ChunkedRef):
            return self._chunked(node)
        if isinstance(node, SparseRef):
            parts = {name: self._tensor(part) for name, part in node.components.items()}
            return densified(node, parts, file=self._file)
        if isinstance(node, NumpyScalar):
            return np.asarray(values.scalar(node, file=self._file))
        return values.array(node, file=self._file)

    def _check_shape(self, node: Any) -> None:
        """Go on only with a shape that NumPy has: torch has longer ones, and larger empty ones."""
        shape = tuple(getattr(node, "shape", ()))
        extent = math.prod(size or 1 for size in shape) * _MOST_NBYTES_OF_AN_ELEMENT
        if len(shape) > _MOST_AXES or (extent >= 1 << 63 and 0 in shape):
            raise UsageError(
                "NumPy has no arrays of this shape",
                file=self._file,
                wanted=f"at most {_MOST_AXES} axes, and sizes whose product fits 63 bits",
                found=f"{len(shape)} axes" if len(shape) > _MOST_AXES else str(list(shape))[:200],
                cure="Read it with torch: .tensor(name).",
            )

    def _tensor(self, ref: TensorRef) -> Array:
        if ref.storage is None and ref.numel:
            raise UsageError(
                "a tensor of the meta device has a shape and no values",
                file=self._file,
                found=f"{ref.dtype.torch_name} {list(ref.shape)}",
            )
        if ref.dtype.bits < 8:
            return self._six_bits(ref)
        if ref.quantizer is not None:
            return self._quantized(ref)
        return numbers.finished(ref, dense.array(ref, self.storages))

    def _chunked(self, ref: ChunkedRef) -> Array:
        pieces = [self._tensor(chunk.ref) for chunk in ref.chunks]
        made = np.empty(ref.shape, pieces[0].dtype if pieces else ref.dtype.numpy())
        for chunk, piece in zip(ref.chunks, pieces, strict=True):
            box = zip(chunk.offsets, piece.shape, strict=True)
            made[tuple(slice(at, at + size) for at, size in box)] = piece
        return made

    def _six_bits(self, ref: TensorRef) -> Array:
        if ref.storage is None:
            return np.empty(ref.shape, ref.dtype.numpy())
        data = self.storages.read(ref.storage, 0, ref.storage.nbytes)
        return numbers.six_bits(data, ref.dtype, ref.numel).reshape(ref.shape)

    def _quantized(self, ref: TensorRef) -> Array:
        quantizer = ref.quantizer
        assert quantizer is not None
        integers = self._integers(ref)
        scale, zero_point = (
            self._tensor(each) if isinstance(each, TensorRef) else each
            for each in (quantizer.scale, quantizer.zero_point)
        )
        if quantizer.scheme.endswith("float_qparams"):  # here the zero point is in real numbers
            along = tuple(-1 if axis == quantizer.axis else 1 for axis in range(integers.ndim))
            made = integers * np.reshape(scale, along) + np.reshape(zero_point, along)
            return np.asarray(made, np.float32)
        return numbers.dequantized(integers, scale, zero_point, quantizer.axis)

    def _integers(self, ref: TensorRef) -> Array:
        if ref.dtype.name not in numbers.PACKED or ref.storage is None:
            return dense.array(ref, self.storages)
        data = self.storages.read(ref.storage, 0, ref.storage.nbytes)
        flat = numbers.unpacked(data, ref.dtype)
        if math.prod(ref.shape) == 0:
            return np.empty(ref.shape, np.uint8)
        return np.lib.stride_tricks.as_strided(flat[ref.offset :], ref.shape, ref.stride).copy()
