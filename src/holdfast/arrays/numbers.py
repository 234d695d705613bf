"""Raw elements → the numbers they stand for: bits, halves, quantized and packed integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.spec.dtypes import DType
from holdfast.spec.index import TensorRef

Array = np.ndarray[Any, Any]

#: Elements in one byte, by type, the first in the lowest bits.
PACKED = {"quint4x2": 2, "quint2x4": 4}


def finished(ref: TensorRef, raw: Array) -> Array:
    """The numbers of a tensor's raw elements: halves widened, conjugated, negated."""
    made = complex_of_halves(raw) if ref.dtype.name == "complex32" else raw
    if ref.is_conj:
        made = np.conjugate(made)
    return np.negative(made) if ref.is_neg else made


def complex_of_halves(raw: Array) -> Array:
    """Complex numbers of two float32 from those of two float16, which NumPy lacks."""
    halves = np.ascontiguousarray(raw).view(np.float16).reshape(*raw.shape, 2)
    made = np.empty(raw.shape, np.complex64)
    made.real, made.imag = halves[..., 0], halves[..., 1]
    return made


def unpacked(data: Array, dtype: DType) -> Array:
    """The integers of a packed type, one byte each, in order."""
    count = PACKED[dtype.name]
    bits = 8 // count
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)


def six_bits(data: Array, dtype: DType, numel: int) -> Array:
    """Numbers of six bits, four in three bytes, the first in the lowest bits."""
    bits = np.unpackbits(data, bitorder="little")[: numel * 6].reshape(numel, 6)
    codes = np.packbits(bits, axis=1, bitorder="little").reshape(-1)
    return codes.view(dtype.numpy())


def dequantized(integers: Array, scale: Any, zero_point: Any, axis: int | None) -> Array:
    """``(integer - zero point) * scale`` as float32, per tensor or along an axis."""
    if axis is None:
        centred = integers.astype(np.float32) - np.float32(zero_point)
        return np.asarray(centred * np.float32(scale), np.float32)
    along = tuple(-1 if each == axis else 1 for each in range(integers.ndim))
    scales = np.asarray(scale, np.float32).reshape(along)
    zeros = np.asarray(zero_point, np.float32).reshape(along)
    return np.asarray((integers.astype(np.float32) - zeros) * scales, np.float32)
