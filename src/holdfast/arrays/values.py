"""NumPy arrays, scalars and dtypes from their references."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from holdfast.errors import RefusedError
from holdfast.spec.index import ArrayRef, NumpyScalar

_PLAIN = re.compile(r"[<>|][biufcSU][0-9]{1,9}")


def dtype(text: str, *, file: str) -> np.dtype[Any]:
    """The dtype of a text such as ``<f8``.

    Raises:
        RefusedError: it is neither a number nor fixed-length text.
    """
    try:
        if _PLAIN.fullmatch(text):
            return np.dtype(text)
    except TypeError:
        pass  # a number type that this machine lacks, such as a 16-byte float
    raise RefusedError(
        "refused: NumPy arrays in a checkpoint hold numbers or text",
        file=file,
        found=f"dtype {text!r}",
        cure='Without them: holdfast.load(path, opaque="keep").',
    )


def array(ref: ArrayRef, *, file: str) -> np.ndarray[Any, Any]:
    """The array of a reference, writable, in its memory order and this machine's byte order."""
    kind = dtype(ref.dtype_str, file=file)
    order: Any = "F" if ref.fortran_order else "C"
    try:
        stored = np.ndarray(ref.shape, kind, ref.data, order=order)
        return stored.astype(kind.newbyteorder("="), order=order)  # as NumPy does on unpickling
    except (ValueError, TypeError) as error:
        raise RefusedError(
            "refused: an array's shape is one that NumPy can hold", file=file, found=str(error)
        ) from error


def scalar(ref: NumpyScalar, *, file: str) -> Any:
    """The NumPy scalar of a reference."""
    kind = dtype(ref.dtype_str, file=file)
    if not ref.data:
        return kind.type()
    return np.frombuffer(ref.data, kind)[0]
