"""Shapes and element types of tensors, stored or live, in the same words."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.spec.index import SIZED, ArrayRef, ChunkedRef, SparseRef, TensorRef


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor or array, or a reference to one."""
    return isinstance(value, (torch.Tensor, *SIZED))


def shape_of(value: Any) -> str:
    """A tensor's shape in words, ``(3, 2)``; of what is none, ``a value``."""
    return str(tuple(value.shape)) if is_tensor(value) else "a value"


def dtype_of(value: Any) -> str | None:
    """A tensor's element type without ``torch.``; None of what is no tensor."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch.")
    if isinstance(value, ArrayRef):
        return f"numpy {value.dtype_str}"
    return value.dtype.name if isinstance(value, TensorRef | ChunkedRef | SparseRef) else None
