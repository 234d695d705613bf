"""Which tensors of two checkpoints belong together, and how each pair differs."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from holdfast.arrays.read import Reader
from holdfast.errors import MissingPartError
from holdfast.measuring.blocks import dtype_of, shape_of, stored, without_numbers
from holdfast.measuring.compare import compared, digest
from holdfast.report.diff import (
    Change,
    ChangeKind,
    DiffReport,
    Side,
    Sums,
    ValueChange,
    is_weight,
    layer_of,
)
from holdfast.report.leaves import Leaf, leaves
from holdfast.report.values import text_of, type_of, whole_text_of
from holdfast.spec.index import SIZED, ArrayRef, Index, Opaque, SparseRef, TensorRef

#: Pairs that are read at once: more would take more memory than they save time.
_AT_ONCE = 2

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

    ``on_progress`` is called with the bytes of each tensor that was read, from several threads.

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
    values = list(_changed_values(left.values, right.values))
    return DiffReport(
        a=a.index.file,
        b=b.index.file,
        same=len(outcomes) - len(changes),
        changes=tuple(sorted(changes, key=lambda change: -change.weight)),
        added=tuple(_side(leaf) for leaf in added),
        removed=tuple(_side(leaf) for leaf in removed),
        values=tuple(values),
        record=tuple(_changed_record(a.index, b.index)),
        same_values=len(left.values.keys() | right.values.keys()) - len(values),
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
    tensors = {leaf.name: leaf for leaf in found if isinstance(leaf.value, SIZED)}
    values = {leaf.name: leaf.value for leaf in found if not isinstance(leaf.value, SIZED)}
    return _Sides(tensors, values, is_complete)


def _below(leaf: Leaf, part: str) -> Leaf:
    return leaf._replace(name=leaf.name.removeprefix(f"{part}."))


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
        for key in (_unwrapped, None):
            found = self._matches(a, b, key)
            pairs += found
            gone = {id(leaf) for pair in found for leaf in pair}
            a, b = ([leaf for leaf in side if id(leaf) not in gone] for side in (a, b))
        return pairs, a, b

    def _matches(
        self, a: Sequence[Leaf], b: Sequence[Leaf], key: Callable[[Leaf], Any] | None
    ) -> list[_Pair]:
        """Pairs of equal keys, the first with the first; by default the key is what they hold."""
        if key is not None:
            return _by_key({id(leaf): key(leaf) for leaf in (*a, *b)}, a, b)
        kinds = {_kind(leaf) for leaf in a} & {_kind(leaf) for leaf in b}
        keys = {}
        for side, reader in zip((a, b), self.readers, strict=True):
            for leaf in side:
                if _kind(leaf) in kinds and without_numbers(stored(leaf.value)) is None:
                    keys[id(leaf)] = (*_kind(leaf), digest(leaf.value, reader))
        return _by_key(keys, a, b)

    def outcomes(self, pairs: Sequence[_Pair]) -> Iterator[_Outcome]:
        """What came of each pair, in order."""
        with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
            yield from pool.map(self._outcome, pairs)

    def _outcome(self, pair: _Pair) -> _Outcome:
        kinds: list[ChangeKind] = ["renamed"] if pair.a.name != pair.b.name else []
        change = _change(pair)
        if change.shapes[0] != change.shapes[1]:
            return _Outcome(replace(change, kinds=(*kinds, "reshaped")), None)
        sums, why = self._sums(pair.a.value, pair.b.value, change.dtypes)
        if change.dtypes[0] != change.dtypes[1]:
            kinds.append("cast")
        if why is not None or (sums is not None and sums.changed):
            kinds.append("changed")
        if self.on_progress is not None:
            self.on_progress(pair.a.value.nbytes + pair.b.value.nbytes)
        found = replace(change, kinds=tuple(kinds), sums=sums, why=why) if kinds else None
        return _Outcome(found, sums)

    def _sums(self, a: Any, b: Any, dtypes: tuple[str, str]) -> tuple[Sums | None, str | None]:
        """The sums of two tensors of one shape, or why there are none although they differ."""
        if isinstance(a, SparseRef) and isinstance(b, SparseRef) and _fit(a, b):
            if not all(self._are_one(part, b.components[name]) for name, part in _places(a)):
                return None, "its elements lie in other places"
            a, b = a.components["values"], b.components["values"]
        left, right = stored(a), stored(b)
        if shape_of(left) == shape_of(right):
            a, b = left, right
        reasons = [without_numbers(each) for each in (a, b)]
        if not any(reasons):
            return compared(a, b, dtypes, self.readers), None
        if dtypes[0] == dtypes[1] and self._are_one(a, b):
            return None, None
        return None, next(why for why in reasons if why)

    def _are_one(self, a: Any, b: Any) -> bool:
        """Whether two tensors of one shape and type hold the same, whatever it is."""
        if isinstance(a, ArrayRef) or isinstance(b, ArrayRef):
            return isinstance(a, ArrayRef) and isinstance(b, ArrayRef) and a.data == b.data
        if (a.storage is None) != (b.storage is None) or a.stride != b.stride:
            return False
        if a.storage is None:
            return True
        first, second = (_flat(each) for each in (a, b))
        return first.numel == second.numel and digest(first, self.readers[0]) == digest(
            second, self.readers[1]
        )


def _fit(a: SparseRef, b: SparseRef) -> bool:
    """Whether two sparse tensors store as many elements in the same layout."""
    shapes = [{name: part.shape for name, part in each.components.items()} for each in (a, b)]
    return a.layout == b.layout and shapes[0] == shapes[1]


def _places(ref: SparseRef) -> list[tuple[str, TensorRef]]:
    return [(name, part) for name, part in ref.components.items() if name != "values"]


def _flat(ref: TensorRef) -> TensorRef:
    """All that a tensor's storage holds."""
    assert ref.storage is not None
    numel = ref.storage.nbytes // ref.dtype.itemsize
    return TensorRef(ref.dtype, (numel,), (1,), ref.storage)


def _kind(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    return dtype_of(leaf.value), shape_of(leaf.value)


def _unwrapped(leaf: Leaf) -> Any:
    steps = tuple(step for step in leaf.name.split(".") if step not in _WRAPPERS)
    return steps, shape_of(leaf.value)


def _by_key(keys: Mapping[int, Any], a: Sequence[Leaf], b: Sequence[Leaf]) -> list[_Pair]:
    """Pairs of leaves with one key; of several, those whose names end alike, then in order."""
    waiting: dict[Any, list[Leaf]] = defaultdict(list)
    for leaf in b:
        if id(leaf) in keys:
            waiting[keys[id(leaf)]].append(leaf)
    pairs = []
    for leaf in a:
        candidates = waiting.get(keys.get(id(leaf)), [])
        if candidates:
            best = max(candidates, key=lambda other: _common_end(leaf.name, other.name))
            candidates.remove(best)
            pairs.append(_Pair(leaf, best))
    return pairs


def _common_end(one: str, other: str) -> int:
    ends = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))


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
        elif _identity(a[name]) != _identity(b[name]):
            one, other = _shown(a[name]), _shown(b[name])
            if one == other:  # they differ where the text is shortened, or in their types
                one, other = (
                    f"{text} ({type_of(side[name])})" for text, side in ((one, a), (other, b))
                )
            yield ValueChange(name, one, other)


def _identity(value: Any) -> Any:
    return _shown(value) if isinstance(value, Opaque) else (type_of(value), whole_text_of(value))


def _shown(value: Any) -> str:
    return f"<{value.symbol}>" if isinstance(value, Opaque) else text_of(value)


def _changed_record(a: Index, b: Index) -> Iterator[ValueChange]:
    left, right = ({} if i.record is None else _fields(i.record.to_json()) for i in (a, b))
    for name in dict.fromkeys((*left, *right)):
        one, other = left.get(name), right.get(name)
        if one != other:
            yield ValueChange(name, one, other)


def _fields(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """The fields of a record by dotted name, as JSON; long ones are shortened."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _fields(value, f"{above}{name}.")
        elif value not in (None, {}, []):
            found[f"{above}{name}"] = json.dumps(value, ensure_ascii=False)[:200]
    return found
