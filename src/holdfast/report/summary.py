"""Index → what a checkpoint holds: parts, tensors, plain values, opaque objects, totals.

A function from values to values: nothing is read, and no tensor's bytes are needed.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

from holdfast.errors import MissingPartError, UsageError
from holdfast.report.leaves import Leaf, TooManyLeavesError, leaves
from holdfast.report.totals import Sum, Total, pieces_of, stored_numel
from holdfast.report.values import json_of, text_of, type_of
from holdfast.spec.index import ArrayRef, ChunkedRef, Index, Opaque, SparseRef, TensorRef

_SIZED = (TensorRef, SparseRef, ChunkedRef, ArrayRef)

#: Names that a mistyped one is compared with: the time for one comparison is about 0.1 ms.
_NAMES_COMPARED = 2000


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor of a checkpoint.

    ``kind`` is ``tensor``, ``parameter``, ``sparse_…`` (torch's layout), ``meta`` (no bytes),
    ``array`` (NumPy's), ``chunked`` (in several pieces) or the name of a tensor class. ``nbytes``
    counts its elements; an expanded tensor (stride 0) refers to fewer bytes than that.
    ``shares_with`` is the first tensor that lies in the same storage.
    """

    name: str
    part: str | None
    kind: str
    shape: tuple[int, ...]
    dtype: str
    numel: int
    nbytes: int
    storage: str | None = None
    shares_with: str | None = None
    is_expanded: bool = False


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """One plain value: ``text`` as Python writes it, shortened, and ``value`` as JSON if it can be.

    Where ``value`` is None and ``type`` is not ``NoneType``, the text alone says what it is.
    """

    name: str
    part: str | None
    type: str
    text: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class OpaqueFacts:
    """One object of a class outside the table: its place and its class, which is never built."""

    name: str
    part: str | None
    symbol: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a checkpoint holds; ``is_complete`` is False where the tree was too large to list."""

    file: str
    format: str
    file_nbytes: int
    record: dict[str, Any] | None
    parts: tuple[Total, ...]
    dtypes: tuple[Total, ...]
    total: Total
    tensors: tuple[TensorFacts, ...]
    values: tuple[ValueFacts, ...]
    opaques: tuple[OpaqueFacts, ...]
    notes: tuple[str, ...] = ()
    is_complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values; the keys are the fields' names, and stable."""
        rows = ("parts", "dtypes", "tensors", "values", "opaques")
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            **values,
            **{name: [_fields(row) for row in values[name]] for name in rows},
            "total": _fields(self.total),
            "notes": list(self.notes),
        }


def _fields(row: Any) -> dict[str, Any]:
    # dataclasses.asdict copies every leaf deeply: seconds for a hundred thousand tensors.
    return {name: getattr(row, name) for name in row.__slots__}


def summarize(index: Index, *, name: str | None = None, grep: str | None = None) -> Summary:
    """Say what a checkpoint holds; linear in the number of leaves.

    With ``name`` only what bears it or lies below it (``model``, ``model.fc.weight``), with
    ``grep`` only names in which that regular expression is found. Totals are of what is left.

    Raises:
        MissingPartError: nothing bears ``name``.
        UsageError: ``grep`` is no regular expression.
    """
    everything, is_complete = _collect(index.tree)
    found = _chosen(everything, name, grep, index.file)
    sized = [leaf for leaf in found if isinstance(leaf.value, _SIZED)]
    opaque = [leaf for leaf in found if isinstance(leaf.value, Opaque)]
    plain = [leaf for leaf in found if not isinstance(leaf.value, (*_SIZED, Opaque))]
    parts: dict[str | None, Sum] = {leaf.part: Sum() for leaf in found}
    dtypes: dict[str, Sum] = {_dtype_of(leaf.value): Sum() for leaf in sized}
    whole = Sum()
    for leaf in sized:
        pieces = pieces_of(leaf.value)
        for each in (whole, parts[leaf.part], dtypes[_dtype_of(leaf.value)]):
            each.add(pieces)
    return Summary(
        file=index.file,
        format=index.format,
        file_nbytes=index.file_nbytes,
        record=None if index.record is None else index.record.to_json(),
        parts=tuple(each.total(name) for name, each in parts.items()),
        dtypes=tuple(each.total(name) for name, each in dtypes.items()),
        total=whole.total(None),
        tensors=_tensor_facts(sized),
        values=tuple(_value_facts(leaf) for leaf in plain),
        opaques=tuple(OpaqueFacts(leaf.name, leaf.part, leaf.value.symbol) for leaf in opaque),
        notes=index.notes,
        is_complete=is_complete,
    )


def _collect(tree: Any) -> tuple[list[Leaf], bool]:
    found: list[Leaf] = []
    try:
        found.extend(leaves(tree))
    except TooManyLeavesError:
        return found, False
    return found, True


def _chosen(found: list[Leaf], name: str | None, grep: str | None, file: str) -> list[Leaf]:
    if name is not None:
        below = [leaf for leaf in found if leaf.name == name or leaf.name.startswith(f"{name}.")]
        if not below:
            raise _nothing_called(name, found, file)
        found = below
    if grep is None:
        return found
    try:
        pattern = re.compile(grep)
    except re.error as error:
        raise UsageError(f"this is no regular expression: {error}", found=repr(grep)) from error
    return [leaf for leaf in found if pattern.search(leaf.name)]


def _nothing_called(name: str, found: list[Leaf], file: str) -> MissingPartError:
    names = dict.fromkeys(each for leaf in found for each in (leaf.part, leaf.name) if each)
    close = difflib.get_close_matches(name, list(names)[:_NAMES_COMPARED], n=3)
    return MissingPartError(
        f"nothing in this checkpoint is called {name!r}",
        file=file,
        found=", ".join(close or list(names)[:5]) or "nothing at all",
        cure="Its names are those that holdfast show prints without a name.",
    )


def not_a_tensor(name: str, node: Any, names: list[str], file: str) -> MissingPartError:
    """The error for a name that no tensor bears; ``node`` is what bears it, if anything does."""
    close = difflib.get_close_matches(name, names[:_NAMES_COMPARED], n=3)
    if node is not None:
        found = f"a plain value: {text_of(node)}" if not isinstance(node, Opaque) else node.symbol
    else:
        below = [each for each in names if each.startswith(f"{name}.")]
        found = ", ".join(below[:3] or close or names[:5]) or "nothing at all"
    return MissingPartError(
        f"no tensor in this checkpoint is called {name!r}",
        file=file,
        found=found,
        cure="checkpoint.names() lists all tensors; plain values are in checkpoint.tree.",
    )


def _tensor_facts(sized: list[Leaf]) -> tuple[TensorFacts, ...]:
    first_in: dict[str, str] = {}
    facts = []
    for leaf in sized:
        ref = leaf.value
        storage = ref.storage.key if isinstance(ref, TensorRef) and ref.storage else None
        first = leaf.name if storage is None else first_in.setdefault(storage, leaf.name)
        facts.append(
            TensorFacts(
                name=leaf.name,
                part=leaf.part,
                kind=_kind(ref),
                shape=tuple(ref.shape),
                dtype=_dtype_of(ref),
                numel=math.prod(ref.shape),
                nbytes=ref.nbytes,
                storage=storage,
                shares_with=None if first == leaf.name else first,
                is_expanded=isinstance(ref, TensorRef) and stored_numel(ref) < ref.numel,
            )
        )
    return tuple(facts)


def _kind(ref: Any) -> str:
    if isinstance(ref, ArrayRef):
        return "array"
    if isinstance(ref, ChunkedRef):
        return "chunked"
    if ref.subclass is not None:
        return str(ref.subclass.symbol)
    if isinstance(ref, SparseRef):
        return ref.layout
    if ref.storage is None:
        return "meta"
    return "parameter" if ref.is_parameter else "tensor"


def _dtype_of(ref: Any) -> str:
    if isinstance(ref, ArrayRef):
        return f"numpy {ref.dtype_str}"
    return str(ref.dtype.name)


def _value_facts(leaf: Leaf) -> ValueFacts:
    value = leaf.value
    return ValueFacts(leaf.name, leaf.part, type_of(value), text_of(value), json_of(value))
