"""Sums over tensors that count what several tensors share only once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holdfast.spec.index import ArrayRef, ChunkedRef, SparseRef, TensorRef


class Total(NamedTuple):
    """A sum over tensors: ``name`` is a part (None: outside all parts) or an element type.

    ``numel`` counts a tensor once, however many names it has, and ``nbytes`` each storage once and
    whole, as the file holds it.
    """

    name: str | None
    tensors: int
    numel: int
    nbytes: int


@dataclass(slots=True)
class Sum:
    """A total in the making."""

    tensors: int = 0
    elements: dict[Hashable, int] = field(default_factory=dict)
    storages: dict[Hashable, int] = field(default_factory=dict)

    def add(self, value: Any) -> None:
        """Count one tensor, sparse tensor or array."""
        self.tensors += 1
        if isinstance(value, ArrayRef):
            self.elements[id(value)] = math.prod(value.shape)
            self.storages[id(value)] = value.nbytes
            return
        for ref in _dense(value):
            storage = ref.storage
            if storage is None:
                self.elements[id(ref)] = stored_numel(ref)
            else:
                self.elements[storage.key, ref.offset, ref.shape, ref.stride] = stored_numel(ref)
                self.storages[storage.key] = storage.nbytes

    def merge(self, other: Sum) -> None:
        """Count the tensors of another sum; what both have is the same and counts once."""
        self.tensors += other.tensors
        self.elements.update(other.elements)
        self.storages.update(other.storages)

    def total(self, name: str | None) -> Total:
        """The sum so far."""
        return Total(name, self.tensors, sum(self.elements.values()), sum(self.storages.values()))


def stored_numel(ref: TensorRef) -> int:
    """The elements that have bytes of their own: an expanded axis (stride 0) counts as one."""
    if 0 not in ref.stride:
        return ref.numel
    sizes = zip(ref.shape, ref.stride, strict=True)
    return math.prod(size if stride else min(size, 1) for size, stride in sizes)


def _dense(value: Any) -> Sequence[TensorRef]:
    """The dense runs of elements that a tensor or sparse tensor is made of."""
    if isinstance(value, TensorRef):
        if value.quantizer is None:
            return (value,)
        extra = (value.quantizer.scale, value.quantizer.zero_point)
        return (value, *(ref for ref in extra if isinstance(ref, TensorRef)))
    if isinstance(value, SparseRef):
        return tuple(value.components.values())
    if isinstance(value, ChunkedRef):
        return tuple(chunk.ref for chunk in value.chunks)
    return ()
