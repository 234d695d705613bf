"""Index → what a checkpoint holds: parts, tensors, plain values, opaque objects, totals.

A function from values to values: nothing is read, and no tensor's bytes are needed.
"""

from __future__ import annotations

import math
from typing import Any

from holdfast.errors import RefusedError
from holdfast.pickles.module_walk import is_module
from holdfast.report.choosing import chosen
from holdfast.report.facts import OpaqueFacts, Summary, TensorFacts, ValueFacts
from holdfast.report.leaves import Leaf, leaves
from holdfast.report.optimizers import find_optimizers
from holdfast.report.totals import Sum, stored_numel
from holdfast.report.values import json_of, text_of, type_of, whole_text_of
from holdfast.spec.identity import identity
from holdfast.spec.index import SIZED, ArrayRef, ChunkedRef, Index, Opaque, SparseRef, TensorRef

__all__ = ["Summary", "summarize"]

_SIZED = frozenset(SIZED)


def summarize(index: Index, *, name: str | None = None, grep: str | None = None) -> Summary:
    """Say what a checkpoint holds; linear in the number of leaves.

    With ``name`` only what bears it or lies below it (``model``, ``model.fc.weight``), with
    ``grep`` only names in which that regular expression is found. Totals are of what is left.

    Raises:
        MissingPartError: nothing bears ``name``.
        UsageError: ``grep`` is no regular expression.
    """
    everything, is_complete = leaves(index.tree)
    found = chosen(everything, name, grep, index.file)
    sums, tensors, plain, opaque = _sorted(found)
    opaques = tuple(_opaque_facts(leaf) for leaf in opaque)
    parts = {part: Sum() for part in dict.fromkeys(leaf.part for leaf in found)}
    dtypes: dict[str, Sum] = {dtype: Sum() for _, dtype in sums}
    whole = Sum()
    for (part, dtype), each in sums.items():
        for total in (whole, parts[part], dtypes[dtype]):
            total.merge(each)
    return Summary(
        file=index.file,
        format=index.format,
        file_nbytes=index.file_nbytes,
        record=None if index.record is None else index.record.to_json(),
        parts=tuple(each.total(name) for name, each in parts.items()),
        dtypes=tuple(each.total(name) for name, each in dtypes.items()),
        total=whole.total(None),
        tensors=tuple(tensors),
        values=tuple(_value_facts(leaf, is_named=leaf.name == name) for leaf in plain),
        opaques=opaques,
        optimizers=() if grep is not None else find_optimizers(index, name),
        metadata=index.metadata,
        programs=index.programs,
        program=index.program,
        symbols=index.symbols,
        notes=(*index.notes, *_doubts(index, opaques)),
        is_complete=is_complete,
    )


def _sorted(
    found: list[Leaf],
) -> tuple[dict[tuple[str | None, str], Sum], list[TensorFacts], list[Leaf], list[Leaf]]:
    """Sums by part and element type, the tensors, the plain values, the opaque objects."""
    sums: dict[tuple[str | None, str], Sum] = {}
    tensors: list[TensorFacts] = []
    plain: list[Leaf] = []
    opaque: list[Leaf] = []
    shared = _Shared()
    for leaf in found:
        value = leaf.value
        if type(value) not in _SIZED:
            (opaque if type(value) is Opaque else plain).append(leaf)
            continue
        facts = _tensor_facts(leaf, value, shared)
        tensors.append(facts)
        key = (facts.part, facts.dtype)
        if (total := sums.get(key)) is None:
            total = sums[key] = Sum()
        total.add(value)
    return sums, tensors, plain, opaque


class _Shared:
    """The first tensor in each storage, and the first of those that are the same elements."""

    def __init__(self) -> None:
        self._in: dict[str, tuple[str, TensorRef]] = {}
        self._same: dict[Any, str] = {}

    def with_earlier(self, name: str, key: str, ref: TensorRef) -> tuple[str | None, str | None]:
        """What lies in the same storage, and what is the same; None where nothing was before."""
        first, its = self._in.setdefault(key, (name, ref))
        if first == name:
            return None, None
        self._same.setdefault(identity(its), first)
        same = self._same.setdefault(identity(ref), name)
        return first, None if same == name else same


def _tensor_facts(leaf: Leaf, ref: Any, shared: _Shared) -> TensorFacts:
    name, part, _, _ = leaf
    shape, kind = tuple(ref.shape), _kind(ref)
    numel = math.prod(shape)
    if type(ref) is not TensorRef:
        dtype = f"numpy {ref.dtype_str}" if type(ref) is ArrayRef else ref.dtype.name
        return TensorFacts(name, part, kind, shape, dtype, numel, ref.nbytes)
    dtype, nbytes = ref.dtype.name, ref.dtype.nbytes_of(numel)
    key = None if ref.storage is None else ref.storage.key
    first, same = (None, None) if key is None else shared.with_earlier(name, key, ref)
    is_expanded = 0 in ref.stride and stored_numel(ref) < numel
    return TensorFacts(name, part, kind, shape, dtype, numel, nbytes, key, first, is_expanded, same)


def _kind(ref: Any) -> str:
    if type(ref) is ArrayRef:
        return "array"
    if type(ref) is ChunkedRef:
        return "chunked"
    if ref.subclass is not None:
        return str(ref.subclass.symbol)
    if type(ref) is SparseRef:
        return ref.layout
    if ref.storage is None:
        return "meta"
    return "parameter" if ref.is_parameter else "tensor"


def _value_facts(leaf: Leaf, *, is_named: bool) -> ValueFacts:
    value = leaf.value
    text = whole_text_of(value) if is_named else text_of(value)
    return ValueFacts(leaf.name, leaf.part, type_of(value), text, json_of(value))


def _opaque_facts(leaf: Leaf) -> OpaqueFacts:
    node: Opaque = leaf.value
    kind = "name" if node.is_global else "module" if is_module(node) else "object"
    return OpaqueFacts(leaf.name, leaf.part, node.symbol, kind)


def _doubts(index: Index, opaques: tuple[OpaqueFacts, ...]) -> tuple[str, ...]:
    """Where the state dict of a model that was pickled whole may not be what is shown."""
    if not any(each.kind == "module" for each in opaques):
        return ()
    from holdfast.pickles.modules import flags  # whole models are few, and their tables are long

    try:
        return flags(index.tree, file=index.file)
    except RefusedError as error:
        return (str(error),)
