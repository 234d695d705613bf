"""Tensors of two checkpoints that belong together, by what they are called or hold."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.measuring.blocks import dtype_of, shape_of
from holdfast.report.leaves import Leaf

#: Steps of a name that wrappers put there: DataParallel and DistributedDataParallel,
#: torch.compile, FSDP, checkpoint_wrapper.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


class Pair(NamedTuple):
    """Two tensors that belong together."""

    a: Leaf
    b: Leaf


def kind_of(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    """The type and the shape of a tensor."""
    return dtype_of(leaf.value), shape_of(leaf.value)


def unwrapped(a: Sequence[Leaf], b: Sequence[Leaf]) -> dict[int, Any]:
    """Names without the steps of wrappers, and shapes."""

    def key(leaf: Leaf) -> Any:
        steps = tuple(step for step in leaf.name.split(".") if step not in _WRAPPERS)
        return steps, shape_of(leaf.value)

    return {id(leaf): key(leaf) for leaf in (*a, *b)}


def by_key(keys: Mapping[int, Any], a: Sequence[Leaf], b: Sequence[Leaf]) -> list[Pair]:
    """Pairs of leaves with one key; of several, those whose names end alike, then in order."""
    pairs: list[Pair] = []
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
                    pairs.append(Pair(leaf, found.popleft()))
                    gone |= {id(each) for each in pairs[-1]}
    order = {id(leaf): at for at, leaf in enumerate(a)}
    return sorted(pairs, key=lambda pair: order[id(pair.a)])


def _end(leaf: Leaf, steps: int) -> list[str] | tuple[str, ...]:
    return tuple(leaf.name.rsplit(".", steps)[-steps:]) if steps else ()
