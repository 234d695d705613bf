"""When two tensor references are the same numbers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from holdfast.spec.index import Quantizer, TensorRef


def identity(node: Any) -> Hashable:
    """What two names of one tensor have in common: the same elements in the same order."""
    if isinstance(node, TensorRef) and node.storage is not None and node.numel:
        bits = (node.dtype.name, node.is_conj, node.is_neg, _quantizer(node.quantizer))
        return (node.storage.key, node.offset, node.shape, node.stride, *bits)
    return id(node)


def _quantizer(quantizer: Quantizer | None) -> Hashable:
    if quantizer is None:
        return None
    scale, zero_point = (
        identity(part) if isinstance(part, TensorRef) else part
        for part in (quantizer.scale, quantizer.zero_point)
    )
    return (quantizer.scheme, scale, zero_point, quantizer.axis)
