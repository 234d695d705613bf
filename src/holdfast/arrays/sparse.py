"""Sparse tensors as dense arrays, their indices checked before anything is stored by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from holdfast.errors import RefusedError, UsageError
from holdfast.spec.index import SparseRef

Array = np.ndarray[Any, Any]

#: A dense array of more bytes than this is nobody's wish: its parts can be had one by one.
_LARGEST = 16 << 30


def densified(ref: SparseRef, parts: Mapping[str, Array], *, file: str) -> Array:
    """The dense array of a sparse tensor; what is stored twice is added up, as torch does.

    Raises:
        RefusedError: an index lies outside the shape.
        UsageError: the dense array would be larger than 16 GiB.
    """
    if ref.dtype.nbytes_of(math.prod(ref.shape)) > _LARGEST:
        raise UsageError(
            "this sparse tensor is too large as a dense array",
            file=file,
            found=f"{ref.layout} {list(ref.shape)}",
            cure="Load it as it is with holdfast.load(path).",
        )
    values = parts["values"]
    made = np.zeros(ref.shape, values.dtype)
    if ref.layout == "sparse_coo":
        _add(made, parts["indices"], values, ref, file)
    else:
        _add_compressed(made, parts, ref, file)
    return made


def _add(made: Array, indices: Array, values: Array, ref: SparseRef, file: str) -> None:
    sizes = np.asarray(ref.shape[: len(indices)], np.int64)[:, None]
    fits = len(indices) <= made.ndim and indices.shape[1:] == values.shape[:1]
    if not fits or values.shape[1:] != made.shape[len(indices) :]:
        raise _refused(ref, file)
    if ((indices < 0) | (indices >= sizes)).any():
        raise _refused(ref, file)
    np.add.at(made, tuple(indices), values)


def _add_compressed(made: Array, parts: Mapping[str, Array], ref: SparseRef, file: str) -> None:
    pointers, plain, values = (np.asarray(part) for part in parts.values())
    is_row = ref.layout in ("sparse_csr", "sparse_bsr")
    is_block = ref.layout in ("sparse_bsr", "sparse_bsc")
    batch = made.shape[: pointers.ndim - 1]
    if (
        pointers.shape[:-1] != batch
        or plain.shape[:-1] != batch
        or len(made.shape) < len(batch) + 2
    ):
        raise _refused(ref, file)
    block = values.shape[plain.ndim : plain.ndim + 2] if is_block else (1, 1)
    for at in np.ndindex(*batch):
        lines = np.repeat(
            np.arange(pointers.shape[-1] - 1), _counts(pointers[at], plain, ref, file)
        )
        pair = (lines, plain[at]) if is_row else (plain[at], lines)
        _place(made[at], pair, values[at], block, ref, file)


def _counts(pointers: Array, plain: Array, ref: SparseRef, file: str) -> Array:
    counts = np.diff(pointers.astype(np.int64))
    total = plain.shape[-1]
    if pointers[0] != 0 or pointers[-1] != total or (counts < 0).any():
        raise _refused(ref, file)
    return counts


def _place(
    made: Array,
    pair: tuple[Array, Array],
    values: Array,
    block: tuple[int, ...],
    ref: SparseRef,
    file: str,
) -> None:
    rows, columns = pair
    height, width = block
    if len(values) != len(rows) or (len(rows) and min(rows.min(), columns.min()) < 0):
        raise _refused(ref, file)
    for position, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        top, left = row * height, column * width
        if top + height > made.shape[0] or left + width > made.shape[1]:
            raise _refused(ref, file)
        made[top : top + height, left : left + width] += values[position]


def _refused(ref: SparseRef, file: str) -> RefusedError:
    return RefusedError(
        "refused: the indices of a sparse tensor lie inside its shape and fit its values",
        file=file,
        wanted=f"{ref.layout} {tuple(ref.shape)}",
        cure="The file is broken, or made to do harm: do not load it with anything else.",
    )
