"""The NumPy type that holds one element of a tensor as the file has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.spec.dtypes import DType

#: Types without a NumPy counterpart, by what holds one element of them in a file.
_RAW = {
    "complex32": "u4",
    "quint8": "u1",
    "qint8": "i1",
    "qint32": "i4",
    "bits16": "u2",
    **{f"int{bits}": "i1" for bits in range(1, 8)},
}


def kind_of(dtype: DType) -> np.dtype[Any]:
    """The type of one element in memory; raw bytes where NumPy has no such number.

    ``complex32`` is two halves in four bytes; packed and bit types are bytes.
    """
    if dtype.numpy_name is not None and dtype.bits >= 8:
        return dtype.numpy()
    return np.dtype(_RAW.get(dtype.name, "u1"))
