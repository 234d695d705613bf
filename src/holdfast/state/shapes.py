"""Shapes and element types of tensors, stored or live, in the same words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from holdfast.converting.types import dtype_of as stored_type
from holdfast.spec.identity import identity
from holdfast.spec.index import SIZED, ArrayRef, ChunkedRef, SparseRef, TensorRef


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor or array, or a reference to one."""
    return isinstance(value, (torch.Tensor, np.ndarray, *SIZED))


def is_lazy(value: Any) -> bool:
    """Whether a tensor has no shape yet."""
    return isinstance(value, UninitializedParameter | UninitializedBuffer)


def shape_of(value: Any) -> str:
    """A tensor's shape in words, ``(3, 2)``, and its layout if it is sparse; else ``a value``."""
    if is_lazy(value):
        return "not yet known"
    if not is_tensor(value):
        return "a value"
    layout = str(getattr(value, "layout", "strided")).removeprefix("torch.")
    shape = str(tuple(value.shape))
    return shape if layout == "strided" else f"{shape} {layout}"


def sizes_of(value: torch.Tensor) -> tuple[int, ...] | None:
    """A live tensor's shape; None of a lazy one, which has none yet."""
    return None if is_lazy(value) else tuple(value.shape)


def dtype_of(value: Any) -> str | None:
    """A tensor's element type without ``torch.``; None of what is no tensor."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch.")
    if isinstance(value, np.ndarray):
        return str(value.dtype.name)
    if isinstance(value, ArrayRef):
        found = stored_type(value)
        return f"numpy {value.dtype_str}" if found is None else found.name
    return value.dtype.name if isinstance(value, TensorRef | ChunkedRef | SparseRef) else None


def elements_of(value: Any) -> Any:
    """What is equal for two tensors, stored or live, only where they are the same elements."""
    if isinstance(value, torch.Tensor) and not is_lazy(value):
        return (value.data_ptr(), tuple(value.shape), value.stride())
    return identity(value) if isinstance(value, SIZED) else id(value)
