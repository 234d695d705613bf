"""Which runs of a source's storages a new torch file keeps, with the views into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from holdfast.spec.identity import identity
from holdfast.spec.index import TensorRef

#: Where a tensor lies: its storage, and its first element and the one behind its last, of those.
Place = tuple[str, int, int]
#: The first element of a run, and the one behind its last.
Run = tuple[int, int]


def kept_runs(nodes: Iterable[Any]) -> Mapping[Place, Run]:
    """The runs to be written as they are, by the places of the tensors in them.

    Tensors whose places overlap lie in one run, so that they share it in the new file, too; one
    that is as large as its place or larger (transposed, expanded) keeps its strides. What is not
    among them is written element by element: slices with gaps, conjugated and negated views, types
    of less than a byte, and storages that tensors of two types look into.
    """
    by_storage: dict[str, list[TensorRef]] = {}
    for node in nodes:
        if isinstance(node, TensorRef) and node.storage is not None and node.numel:
            by_storage.setdefault(node.storage.key, []).append(node)
    return {
        place_of(ref): run
        for refs in by_storage.values()
        if _fits(refs)
        for run, inside in _runs(refs)
        if _is_kept(run, inside)
        for ref in inside
    }


def place_of(ref: TensorRef) -> Place:
    """Where a tensor lies."""
    steps = zip(ref.shape, ref.stride, strict=True)
    end = ref.offset + 1 + sum((size - 1) * step for size, step in steps)
    return ("" if ref.storage is None else ref.storage.key, ref.offset, end)


def _fits(refs: list[TensorRef]) -> bool:
    """Whether all elements are of one type, and are as the bytes are."""
    dtype = refs[0].dtype
    return all(ref.dtype is dtype and not (ref.is_conj or ref.is_neg) for ref in refs)


def _runs(refs: list[TensorRef]) -> Iterator[tuple[Run, list[TensorRef]]]:
    """The tensors whose places overlap, and the run that they cover together."""
    inside: list[TensorRef] = []
    start = end = 0
    for ref in sorted(refs, key=lambda each: each.offset):
        _, first, last = place_of(ref)
        if inside and first >= end:
            yield (start, end), inside
            inside = []
        start, end = (first, last) if not inside else (start, max(end, last))
        inside.append(ref)
    if inside:
        yield (start, end), inside


def _is_kept(run: Run, inside: list[TensorRef]) -> bool:
    distinct = {identity(ref): ref for ref in inside}
    return len(distinct) > 1 or run[1] - run[0] <= inside[0].numel
