"""Which tensors lie in which storage: what a damaged member takes with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.report.leaves import leaves
from holdfast.spec.index import ChunkedRef, SparseRef, StorageRef, TensorRef


def tensors_by_storage(tree: Any) -> dict[str, tuple[str, ...]]:
    """The names of the tensors in each storage, by the storage's key, in order.

    In a tree that describes millions of leaves, those met first.
    """
    found: dict[str, dict[str, None]] = {}
    for leaf in leaves(tree).found:  # a message names what it can
        for storage in storages_of(leaf.value):
            found.setdefault(storage.key, {})[leaf.name] = None
    return {key: tuple(names) for key, names in found.items()}


def storages_of(node: Any) -> Iterator[StorageRef]:
    """The storages that one leaf refers to."""
    if isinstance(node, StorageRef):
        yield node
    elif isinstance(node, TensorRef):
        if node.storage is not None:
            yield node.storage
        if node.quantizer is not None:
            yield from storages_of(node.quantizer.scale)
            yield from storages_of(node.quantizer.zero_point)
    elif isinstance(node, SparseRef):
        for part in node.components.values():
            yield from storages_of(part)
    elif isinstance(node, ChunkedRef):
        for chunk in node.chunks:
            yield from storages_of(chunk.ref)


def first_few(names: tuple[str, ...]) -> str:
    """Names for a message: three of them, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
