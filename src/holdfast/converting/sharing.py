"""Which storages of a source a new torch file keeps as they are, with the views into them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from holdfast.spec.identity import identity
from holdfast.spec.index import TensorRef


def kept_whole(nodes: Iterable[Any]) -> set[str]:
    """The keys of storages to be written whole: of the rest, only the elements that are used.

    Kept are those whose tensors overlap (they are views of one another) and those that are not
    larger than their tensors together (transposed and expanded ones among them). What remains are
    slices of something larger, which torch.save would write whole.
    """
    found: dict[str, list[TensorRef]] = {}
    for node in nodes:
        if isinstance(node, TensorRef) and node.storage is not None and node.numel:
            found.setdefault(node.storage.key, []).append(node)
    return {key for key, refs in found.items() if _fits(refs) and _is_kept(refs)}


def _fits(refs: list[TensorRef]) -> bool:
    """Whether the storage can be written as elements of one type, each as its bytes are."""
    dtype, storage = refs[0].dtype, refs[0].storage
    assert storage is not None
    return (
        dtype.bits >= 8
        and storage.nbytes % dtype.itemsize == 0
        and all(ref.dtype is dtype and not (ref.is_conj or ref.is_neg) for ref in refs)
    )


def _is_kept(refs: list[TensorRef]) -> bool:
    distinct = list({identity(ref): ref for ref in refs}.values())
    storage = refs[0].storage
    assert storage is not None
    if storage.nbytes <= sum(ref.nbytes for ref in distinct):
        return True
    spans = sorted((ref.offset, _end(ref)) for ref in distinct)
    return any(end > start for (_, end), (start, _) in pairwise(spans))


def _end(ref: TensorRef) -> int:
    """Behind its last element, in elements of the storage."""
    steps = zip(ref.shape, ref.stride, strict=True)
    return ref.offset + 1 + sum((size - 1) * step for size, step in steps)
