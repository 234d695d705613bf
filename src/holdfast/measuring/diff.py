"""Which tensors of two checkpoints belong together, and how each pair differs."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from holdfast.arrays import values
from holdfast.arrays.read import Reader
from holdfast.errors import MissingPartError, UsageError
from holdfast.measuring.blocks import dtype_of, is_expanded, shape_of, stored, without_numbers
from holdfast.measuring.compare import compared, digest, raw_digest
from holdfast.measuring.parallel import in_parallel
from holdfast.report.diff import (
    Change,
    ChangeKind,
    DiffReport,
    Side,
    Sums,
    ValueChange,
    layer_of,
)
from holdfast.report.leaves import Leaf, is_plain_sequence, leaves
from holdfast.report.stats import is_weight
from holdfast.report.values import text_of, type_of, whole_text_of
from holdfast.spec.index import (
    SIZED,
    ArrayRef,
    Index,
    Opaque,
    SparseRef,
    StorageRef,
    TensorRef,
)
from holdfast.spec.tree import bracketed

#: Steps of a name that wrappers put there: DataParallel and DistributedDataParallel,
#: torch.compile, FSDP, checkpoint_wrapper.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

Progress = Callable[[int], object] | None


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two: its index, and a reader of it."""

    index: Index
    reader: Reader


class _Pair(NamedTuple):
    a: Leaf
    b: Leaf


class _Outcome(NamedTuple):
    """What came of a pair: the change, or None, and the sums of what is the same."""

    change: Change | None
    sums: Sums | None


def diff(a: Half, b: Half, *, part: str | None = None, on_progress: Progress = None) -> DiffReport:
    """Compare two checkpoints; with ``part`` what lies below that name, where there is such a part.

    ``on_progress`` is called with the bytes of each pair that was compared, from several threads.

    Raises:
        MissingPartError: neither has a part of that name.
        DamagedError: bytes are not those that were saved.
    """
    if part is not None and not any(part in _parts(half.index) for half in (a, b)):
        raise _no_part(part, a.index, b.index)
    left, right = _sides(a.index, part), _sides(b.index, part)
    work = _Work((a.reader, b.reader), on_progress)
    pairs, removed, added = work.paired(left.tensors, right.tensors)
    outcomes = list(work.outcomes(pairs))
    changes = [each.change for each in outcomes if each.change is not None]
    others = list(_changed_values(left.values, right.values))
    return DiffReport(
        a=a.index.file,
        b=b.index.file,
        same=len(outcomes) - len(changes),
        changes=tuple(sorted(changes, key=lambda change: -change.weight)),
        added=tuple(_side(leaf) for leaf in added),
        removed=tuple(_side(leaf) for leaf in removed),
        values=tuple(others),
        record=tuple(_changed_record(a.index, b.index)),
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
    ) -> tuple[list[_Pair], list[Leaf], list[Leaf]]:
        """Tensors that belong together by name, else by name without wrappers, else by content."""
        pairs = [_Pair(leaf, right[name]) for name, leaf in left.items() if name in right]
        a = [leaf for name, leaf in left.items() if name not in right]
        b = [leaf for name, leaf in right.items() if name not in left]
        for keys_of in (_unwrapped, self._contents):
            found = _by_key(keys_of(a, b), a, b)
            pairs += found
            gone = {id(leaf) for pair in found for leaf in pair}
            a, b = ([leaf for leaf in side if id(leaf) not in gone] for side in (a, b))
        return pairs, a, b

    def _contents(self, a: Sequence[Leaf], b: Sequence[Leaf]) -> dict[int, Any]:
        """What each holds, of those that have one of their shape and type on the other side."""
        kinds = {_kind(leaf) for leaf in a} & {_kind(leaf) for leaf in b}
        keys: dict[int, Any] = {}
        for side, reader in zip((a, b), self.readers, strict=True):
            for leaf in side:
                node = stored(leaf.value)
                if _kind(leaf) in kinds and without_numbers(node) is None:
                    with contextlib.suppress(UsageError):  # a sparse one, too large as a dense one
                        keys[id(leaf)] = (*_kind(leaf), shape_of(node), digest(node, reader))
        return keys

    def outcomes(self, pairs: Sequence[_Pair]) -> Iterator[_Outcome]:
        """What came of each pair, in order."""
        return in_parallel(self._outcome, pairs, _nbytes_of)

    def _outcome(self, pair: _Pair) -> _Outcome:
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
        if self.on_progress is not None:
            self.on_progress(_nbytes_of(pair))
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


def _nbytes_of(pair: _Pair) -> int:
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


def _kind(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    return dtype_of(leaf.value), shape_of(leaf.value)


def _unwrapped(a: Sequence[Leaf], b: Sequence[Leaf]) -> dict[int, Any]:
    """Names without the steps of wrappers, and shapes."""

    def key(leaf: Leaf) -> Any:
        steps = tuple(step for step in leaf.name.split(".") if step not in _WRAPPERS)
        return steps, shape_of(leaf.value)

    return {id(leaf): key(leaf) for leaf in (*a, *b)}


def _by_key(keys: Mapping[int, Any], a: Sequence[Leaf], b: Sequence[Leaf]) -> list[_Pair]:
    """Pairs of leaves with one key; of several, those whose names end alike, then in order."""
    pairs: list[_Pair] = []
    gone: set[int] = set()
    for steps in (2, 1, 0):
        waiting: dict[Any, deque[Leaf]] = defaultdict(deque)
        for leaf in b:
            if id(leaf) in keys and id(leaf) not in gone:
                waiting[keys[id(leaf)], _end(leaf, steps)].append(leaf)
        for leaf in a:
            if id(leaf) in keys and id(leaf) not in gone:
                found = waiting.get((keys[id(leaf)], _end(leaf, steps)))
                if found:
                    pairs.append(_Pair(leaf, found.popleft()))
                    gone |= {id(each) for each in pairs[-1]}
    order = {id(leaf): at for at, leaf in enumerate(a)}
    return sorted(pairs, key=lambda pair: order[id(pair.a)])


def _end(leaf: Leaf, steps: int) -> list[str] | tuple[str, ...]:
    return tuple(leaf.name.rsplit(".", steps)[-steps:]) if steps else ()


def _change(pair: _Pair) -> Change:
    a, b = pair.a.value, pair.b.value
    old = pair.a.name if pair.a.name != pair.b.name else None
    return Change(
        pair.b.name, (), (dtype_of(a), dtype_of(b)), (shape_of(a), shape_of(b)), old_name=old
    )


def _untouched(pairs: Sequence[_Pair], outcomes: Sequence[_Outcome]) -> dict[str, Sums]:
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


def _changed_values(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[ValueChange]:
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            one, other = (_shown(side[name]) if name in side else None for side in (a, b))
            yield ValueChange(name, one, other)
        elif not _is_same(a[name], b[name]):
            one, other = _shown(a[name]), _shown(b[name])
            if one == other:  # they differ where the text is shortened, or in their types
                one, other = (f"{_shown(each)} ({type_of(each)})" for each in (a[name], b[name]))
            yield ValueChange(name, one, other)


def _is_same(a: Any, b: Any) -> bool:
    """Whether two plain values are one; what else they are, their whole text says."""
    if type(a) is not type(b):
        return False
    if isinstance(a, str | bytes | int | None):
        return bool(a == b)
    if isinstance(a, list | tuple) and is_plain_sequence(a) and is_plain_sequence(b):
        return len(a) == len(b) and all(map(_is_same, a, b))
    if isinstance(a, Opaque):
        return _shown(a) == _shown(b)
    return whole_text_of(a) == whole_text_of(b)


def _shown(value: Any) -> str:
    return f"<{value.symbol}>" if isinstance(value, Opaque) else text_of(value)


def _changed_record(a: Index, b: Index) -> Iterator[ValueChange]:
    left, right = ({} if i.record is None else _fields(i.record.to_json()) for i in (a, b))
    for path in dict.fromkeys((*left, *right)):
        one, other = left.get(path), right.get(path)
        if one != other:
            yield ValueChange(".".join(path), _shortened(one), _shortened(other))


def _fields(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The fields of a record by their path, as JSON."""
    found: dict[tuple[str, ...], str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _fields(value, (*above, name))
        elif value not in (None, {}, []):
            found[(*above, name)] = json.dumps(value, ensure_ascii=False)
    return found


def _shortened(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


#: Characters of a record's field that are shown.
_LONGEST = 200
