"""Sums over tensors that count what several tensors share only once."""

from __future__ import annotations

import math
from collections.abc import Hashable
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


class Piece(NamedTuple):
    """One dense run of elements that a tensor is made of, and the storage that holds it."""

    view: Hashable
    numel: int
    storage: Hashable
    nbytes: int


@dataclass(slots=True)
class Sum:
    """A total in the making."""

    tensors: int = 0
    elements: dict[Hashable, int] = field(default_factory=dict)
    storages: dict[Hashable, int] = field(default_factory=dict)

    def add(self, pieces: list[Piece]) -> None:
        """Count one tensor."""
        self.tensors += 1
        for piece in pieces:
            self.elements[piece.view] = piece.numel
            self.storages[piece.storage] = piece.nbytes

    def merge(self, other: Sum) -> None:
        """Count the tensors of another sum; what both have is the same and counts once."""
        self.tensors += other.tensors
        self.elements.update(other.elements)
        self.storages.update(other.storages)

    def total(self, name: str | None) -> Total:
        """The sum so far."""
        return Total(name, self.tensors, sum(self.elements.values()), sum(self.storages.values()))


def pieces_of(value: Any) -> list[Piece]:
    """What a tensor, sparse tensor or array is made of."""
    if isinstance(value, TensorRef):
        quantizer = value.quantizer
        if quantizer is None:
            return [_piece(value)]
        extra = (quantizer.scale, quantizer.zero_point)
        return [_piece(ref) for ref in (value, *extra) if isinstance(ref, TensorRef)]
    if isinstance(value, SparseRef):
        return [_piece(ref) for ref in value.components.values()]
    if isinstance(value, ChunkedRef):
        return [_piece(chunk.ref) for chunk in value.chunks]
    if isinstance(value, ArrayRef):
        return [Piece(id(value), math.prod(value.shape), id(value), value.nbytes)]
    return []


def stored_numel(ref: TensorRef) -> int:
    """The elements that have bytes of their own: an expanded axis (stride 0) counts as one."""
    if 0 not in ref.stride:
        return ref.numel
    sizes = zip(ref.shape, ref.stride, strict=True)
    return math.prod(size if stride else min(size, 1) for size, stride in sizes)


def _piece(ref: TensorRef) -> Piece:
    storage = ref.storage
    if storage is None:
        return Piece(id(ref), stored_numel(ref), None, 0)
    view = (storage.key, ref.offset, ref.shape, ref.stride)
    return Piece(view, stored_numel(ref), storage.key, storage.nbytes)
