"""Numbers of one floating-point type in another, exactly as torch casts them."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.spec.dtypes import DType

Array = np.ndarray[Any, Any]

#: The largest number of float8_e4m3fn, and the largest that is rounded to it. The type has no
#: infinity: torch gives what lies beyond, infinity too, this number (c10/util/Float8_e4m3fn.h).
_E4M3_MOST, _E4M3_ROUNDED = 448.0, 464.0


def cast(numbers: Array, wanted: DType) -> tuple[Array, int]:
    """The numbers in the type ``wanted``, and how many finite ones it cannot hold."""
    is_finite = np.isfinite(numbers)
    made, is_held = _CASTS.get(wanted.name, _plain)(_single(numbers, wanted), wanted)
    return made, int(np.count_nonzero(is_finite & ~is_held))


def _single(numbers: Array, wanted: DType) -> Array:
    """The numbers as float32, where torch goes from one type to the other by way of it.

    It holds all numbers of the small types, and rounds those of float64, which are rounded twice.
    """
    return numbers if wanted.name == "float64" else numbers.astype(np.float32, copy=False)


def _plain(numbers: Array, wanted: DType) -> tuple[Array, Array]:
    made = numbers.astype(wanted.numpy())
    return made, np.isfinite(made)


def _e4m3(numbers: Array, wanted: DType) -> tuple[Array, Array]:
    made = numbers.astype(wanted.numpy())
    is_beyond = np.abs(numbers) > _E4M3_ROUNDED
    made[is_beyond] = np.copysign(np.float32(_E4M3_MOST), numbers[is_beyond]).astype(made.dtype)
    return made, ~is_beyond


def _e8m0(numbers: Array, wanted: DType) -> tuple[Array, Array]:
    """Powers of two, without sign or zero: the exponent, rounded (c10/util/Float8_e8m0fnu.h)."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    rounds_up = (fraction > _HALF) | ((fraction == _HALF) & (exponent > 0))
    made = np.where(exponent == 0xFF, exponent, exponent + rounds_up).astype(np.uint8)
    return made.view(wanted.numpy()), made != 0xFF


_HALF = 1 << 22
_CASTS = {"float8_e4m3fn": _e4m3, "float8_e8m0fnu": _e8m0}
