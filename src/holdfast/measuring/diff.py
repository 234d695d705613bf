"""Which tensors of two checkpoints belong together, and how each pair differs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from holdfast.arrays import values
from holdfast.arrays.read import Reader
from holdfast.errors import (
    DamagedError,
    MissingPartError,
    RefusedError,
    TruncatedError,
    UsageError,
)
from holdfast.measuring.blocks import dtype_of, is_expanded, shape_of, stored, without_numbers
from holdfast.measuring.compare import compared, digest, raw_digest
from holdfast.measuring.pairing import Pair, by_key, kind_of, unwrapped
from holdfast.measuring.parallel import in_parallel
from holdfast.report.changes import changed_record, changed_values
from holdfast.report.diff import (
    Change,
    ChangeKind,
    DiffReport,
    Side,
    Sums,
    layer_of,
)
from holdfast.report.leaves import Leaf, leaves
from holdfast.report.stats import is_weight
from holdfast.spec.index import (
    SIZED,
    ArrayRef,
    Index,
    SparseRef,
    StorageRef,
    TensorRef,
)
from holdfast.spec.tree import bracketed

Progress = Callable[[int], object] | None
_UNREADABLE = (DamagedError, TruncatedError, RefusedError)


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two: its index, and a reader of it."""

    index: Index
    reader: Reader


class _Outcome(NamedTuple):
    """What came of a pair: the change, or None, and the sums of what is the same."""

    change: Change | None
    sums: Sums | None


def diff(a: Half, b: Half, *, part: str | None = None, on_progress: Progress = None) -> DiffReport:
    """Compare two checkpoints; with ``part`` what lies below that name, where there is such a part.

    ``on_progress`` is called with the bytes of each pair that was compared, from several threads.

    What cannot be read, as its bytes are not those that were saved, is a change that says so.

    Raises:
        MissingPartError: neither has a part of that name.
    """
    if part is not None and not any(part in _parts(half.index) for half in (a, b)):
        raise _no_part(part, a.index, b.index)
    left, right = _sides(a.index, part), _sides(b.index, part)
    work = _Work((a.reader, b.reader), on_progress)
    pairs, removed, added = work.paired(left.tensors, right.tensors)
    outcomes = list(work.outcomes(pairs))
    changes = [each.change for each in outcomes if each.change is not None]
    others = list(changed_values(left.values, right.values))
    return DiffReport(
        a=a.index.file,
        b=b.index.file,
        same=len(outcomes) - len(changes),
        changes=tuple(sorted(changes, key=lambda change: -change.weight)),
        added=tuple(_side(leaf) for leaf in added),
        removed=tuple(_side(leaf) for leaf in removed),
        values=tuple(others),
        record=tuple(changed_record(a.index, b.index)),
        same_values=len(left.values.keys() | right.values.keys()) - len(others),
        is_complete=left.is_complete and right.is_complete,
        untouched=_untouched(pairs, outcomes),
    )


def _parts(index: Index) -> list[str]:
    return [part for part in dict.fromkeys(leaf.part for leaf in leaves(index.tree).found) if part]


def _no_part(part: str, a: Index, b: Index) -> MissingPartError:
    return MissingPartError(
        f"neither checkpoint has a part called {part!r}",
        found=", ".join(dict.fromkeys((*_parts(a), *_parts(b)))) or "no parts",
        cure="holdfast show PATH --depth 1 lists them.",
    )


class _Sides(NamedTuple):
    tensors: dict[str, Leaf]
    values: dict[str, Any]
    is_complete: bool


def _sides(index: Index, part: str | None) -> _Sides:
    """The tensors and the plain values of a checkpoint by name."""
    found, is_complete = leaves(index.tree)
    if part is not None and any(leaf.part == part for leaf in found):
        found = [_below(leaf, part) for leaf in found if leaf.part == part]
    found = [_with_storage(leaf) for leaf in found]
    tensors = {leaf.name: leaf for leaf in found if isinstance(leaf.value, SIZED)}
    values = {leaf.name: leaf.value for leaf in found if not isinstance(leaf.value, SIZED)}
    return _Sides(tensors, values, is_complete)


def _below(leaf: Leaf, part: str) -> Leaf:
    """The leaf under its name within the part."""
    name = leaf.name.removeprefix(bracketed((part,))) if leaf.name != leaf.dotted else leaf.name
    return leaf._replace(name=name.removeprefix(f"{part}."))


def _with_storage(leaf: Leaf) -> Leaf:
    """A storage by itself as the tensor of all that is in it."""
    value = leaf.value
    if not isinstance(value, StorageRef):
        return leaf
    return leaf._replace(value=TensorRef(value.dtype, (value.numel,), (1,), value))


@dataclass(frozen=True, slots=True)
class _Work:
    readers: tuple[Reader, Reader]
    on_progress: Progress

    def paired(
        self, left: Mapping[str, Leaf], right: Mapping[str, Leaf]
    ) -> tuple[list[Pair], list[Leaf], list[Leaf]]:
        """Tensors that belong together by name, else by name without wrappers, else by content."""
        pairs = [Pair(leaf, right[name]) for name, leaf in left.items() if name in right]
        a = [leaf for name, leaf in left.items() if name not in right]
        b = [leaf for name, leaf in right.items() if name not in left]
        for keys_of in (unwrapped, self._contents):
            found = by_key(keys_of(a, b), a, b)
            pairs += found
            gone = {id(leaf) for pair in found for leaf in pair}
            a, b = ([leaf for leaf in side if id(leaf) not in gone] for side in (a, b))
        return pairs, a, b

    def _contents(self, a: Sequence[Leaf], b: Sequence[Leaf]) -> dict[int, Any]:
        """What each holds, of those that have one of their shape and type on the other side."""
        kinds = {kind_of(leaf) for leaf in a} & {kind_of(leaf) for leaf in b}
        keys: dict[int, Any] = {}
        for side, reader in zip((a, b), self.readers, strict=True):
            for leaf in side:
                node = stored(leaf.value)
                if kind_of(leaf) in kinds and without_numbers(node) is None:
                    # A sparse one, too large as a dense one; or one that is damaged.
                    with contextlib.suppress(UsageError, *_UNREADABLE):
                        keys[id(leaf)] = (*kind_of(leaf), shape_of(node), digest(node, reader))
        return keys

    def outcomes(self, pairs: Sequence[Pair]) -> Iterator[_Outcome]:
        """What came of each pair, in order."""
        return in_parallel(self._outcome, pairs, _nbytes_of)

    def _outcome(self, pair: Pair) -> _Outcome:
        try:
            return self._compared(pair)
        except _UNREADABLE as error:  # the others can be compared all the same
            change = replace(_change(pair), kinds=("changed",), why=f"unreadable: {error.what}")
            return _Outcome(change, None)
        finally:
            if self.on_progress is not None:
                self.on_progress(_nbytes_of(pair))

    def _compared(self, pair: Pair) -> _Outcome:
        kinds: list[ChangeKind] = ["renamed"] if pair.a.name != pair.b.name else []
        change = _change(pair)
        sums, why = None, None
        if change.shapes[0] != change.shapes[1]:
            kinds.append("reshaped")
        else:
            if change.dtypes[0] != change.dtypes[1]:
                kinds.append("cast")
            sums, why = self._sums(pair.a.value, pair.b.value, change.dtypes)
            if why is not None or (sums is not None and sums.changed):
                kinds.append("changed")
        found = replace(change, kinds=tuple(kinds), sums=sums, why=why) if kinds else None
        return _Outcome(found, sums)

    def _sums(self, a: Any, b: Any, dtypes: tuple[str, str]) -> tuple[Sums | None, str | None]:
        """The sums of two tensors of one shape, or why there are none although they may differ."""
        if isinstance(a, SparseRef) and isinstance(b, SparseRef) and _fit(a, b):
            places = [(part, b.components[name]) for name, part in _places(a)]
            if not all(self._is_equal(*each) for each in places):
                return None, "its elements lie in other places"
            a, b = a.components["values"], b.components["values"]
        if is_expanded(a) == is_expanded(b):  # else the work is that of the one that is not
            reduced = stored(a), stored(b)
            a, b = reduced if shape_of(reduced[0]) == shape_of(reduced[1]) else (a, b)
        reasons = [without_numbers(each) for each in (a, b) if not is_expanded(each)]
        if is_expanded(a) and is_expanded(b):
            return None, "both repeat their elements, along other axes"
        if not any(reasons):
            try:
                return compared(a, b, dtypes, self.readers), None
            except UsageError as error:  # a sparse one, too large as a dense one
                return None, error.what
        if dtypes[0] == dtypes[1] and self._holds_the_same(a, b):
            return None, None
        return None, next(why for why in reasons if why)

    def _is_equal(self, a: TensorRef, b: TensorRef) -> bool:
        """Whether two tensors of whole numbers are the same."""
        sums, why = self._sums(a, b, (dtype_of(a), dtype_of(b)))
        return why is None and (sums is None or not sums.changed)

    def _holds_the_same(self, a: Any, b: Any) -> bool:
        """Whether what has no numbers is the same; False where that cannot be said."""
        if isinstance(a, ArrayRef) and isinstance(b, ArrayRef):
            return _are_one_text(a, b)
        if not isinstance(a, TensorRef) or not isinstance(b, TensorRef) or a.stride != b.stride:
            return False
        if a.storage is None or b.storage is None:
            return a.storage is b.storage  # meta tensors have no values
        if a.dtype.bits < 8 and a.offset != b.offset:
            return False
        cuts = [_flat(each) if without_numbers(stored(each)) else each for each in (a, b)]
        made = [raw_digest(cut, reader) for cut, reader in zip(cuts, self.readers, strict=True)]
        return made[0] == made[1]


def _are_one_text(a: ArrayRef, b: ArrayRef) -> bool:
    """Whether two arrays hold the same text; of objects the file's bytes are not kept."""
    if a.dtype_str[1:2] not in "SU":
        return False
    one, other = (values.array(each, file="") for each in (a, b))
    return np.array_equal(one, other)


def _nbytes_of(pair: Pair) -> int:
    """The bytes that are read of a pair."""
    return int(stored(pair.a.value).nbytes + stored(pair.b.value).nbytes)


def _fit(a: SparseRef, b: SparseRef) -> bool:
    """Whether two sparse tensors store as many elements in the same layout."""
    shapes = [{name: part.shape for name, part in each.components.items()} for each in (a, b)]
    return a.layout == b.layout and shapes[0] == shapes[1]


def _places(ref: SparseRef) -> list[tuple[str, TensorRef]]:
    return [(name, part) for name, part in ref.components.items() if name != "values"]


def _flat(ref: TensorRef) -> TensorRef:
    """The elements from a tensor's first to its last, each once."""
    if not ref.numel or ref.dtype.bits < 8:
        return ref
    last = sum((size - 1) * step for size, step in zip(ref.shape, ref.stride, strict=True))
    return TensorRef(ref.dtype, (last + 1,), (1,), ref.storage, ref.offset)


def _change(pair: Pair) -> Change:
    a, b = pair.a.value, pair.b.value
    old = pair.a.name if pair.a.name != pair.b.name else None
    return Change(
        pair.b.name, (), (dtype_of(a), dtype_of(b)), (shape_of(a), shape_of(b)), old_name=old
    )


def _untouched(pairs: Sequence[Pair], outcomes: Sequence[_Outcome]) -> dict[str, Sums]:
    """By layer, the sums of weights that are the same: what its change is relative to."""
    found: dict[str, Sums] = {}
    for pair, outcome in zip(pairs, outcomes, strict=True):
        is_same = outcome.change is None and outcome.sums is not None
        if is_same and is_weight(dtype_of(pair.a.value), shape_of(pair.a.value)):
            layer = layer_of(pair.b.name)
            found[layer] = found.get(layer, Sums()) + (outcome.sums or Sums())
    return found


def _side(leaf: Leaf) -> Side:
    return Side(leaf.name, dtype_of(leaf.value), shape_of(leaf.value), leaf.value.nbytes)
