"""The leaves of any tree, opaque objects included, in bounded time.

``spec.tree.walk`` is for trees of our own; this walk is for what strangers' files hold. A container
met inside itself ends there, and one that refers to itself over and over (a pickle of a hundred
bytes can describe 2**40 leaves) ends when the budget is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.pickles.module_walk import module_state, own_tensors, pairs_of
from holdfast.spec.index import (
    ArrayRef,
    ChunkedRef,
    DeviceRef,
    DTypeRef,
    Opaque,
    SizeRef,
    SparseRef,
    TensorRef,
)
from holdfast.spec.tree import Path, bracketed, children_of, distinct, step_text

#: Leaves and containers that one walk may meet; a name of 64 characters counts as one more.
BUDGET = 1_000_000

#: What one container counts more for each time it is met again: files hold few of those twice.
_AGAIN = 100

_SCALARS = (int, float, complex, str, bytes, type(None))

#: Plain values, as a module's attributes.
_ATTRIBUTES = (*_SCALARS, SizeRef, DTypeRef, DeviceRef)

#: Most leaves are of these types; asking that first makes the walk twice as fast.
_LEAVES = frozenset({TensorRef, SparseRef, ChunkedRef, ArrayRef, bool, *_SCALARS})


class Leaf(NamedTuple):
    """One leaf: its name, the part it belongs to, and its value.

    ``name`` is ``dotted``, its path as people write it, unless another leaf's is the same: then it
    is the path in brackets, ``['model']['fc.weight']``, and so is the other's. ``part`` is the
    root's key above it; None where the root is no dict, or holds the leaf itself.
    """

    name: str
    part: str | None
    value: Any
    dotted: str


class Leaves(NamedTuple):
    """The leaves of a tree in order, each under a name of its own.

    ``is_complete`` is False where the tree describes more than could be listed; those listed are
    right.
    """

    found: list[Leaf]
    is_complete: bool


#: A path from a leaf up to the root: its last step, and the path above, which siblings share.
_Steps = tuple[Any, ...]

#: A container being walked: its id, name, part and path (None above the root), and what is to come.
_Level = tuple[int, str, "str | None", "_Steps | None", Iterator[tuple[Any, Any]]]


def leaves(tree: Any, budget: int = BUDGET) -> Leaves:
    """Every leaf in order, depth first; a sequence of plain numbers and text is one leaf.

    An opaque object is a leaf, and after it comes what it holds: of an ``nn.Module`` its
    parameters, buffers and submodules under the names its state dict gives them, and its plain
    attributes such as ``stride``; buffers that the state dict leaves out too, as the file has their
    bytes, and objects that are no modules, such as its configuration. The list ends where more than
    ``budget`` nodes were met.
    """
    found: list[Leaf] = []
    places: list[_Steps] = []
    for leaf, steps in _met(tree, budget):
        if leaf is None:
            return Leaves(_named(found, places), is_complete=False)
        found.append(leaf)
        places.append(steps)
    return Leaves(_named(found, places), is_complete=True)


def _met(tree: Any, budget: int) -> Iterator[tuple[Leaf | None, _Steps]]:
    """The leaves and where they stand; None for one when the budget is spent."""
    open_ids: set[int] = set()
    met: set[int] = set()
    parts = iter(_parts(tree))
    place: _Steps
    levels: list[_Level] = [(0, "", None, None, iter([((), tree)]))]
    while levels:
        owner, above, part, steps, to_come = levels[-1]
        for step, node in to_come:
            name, place, here = above, (), part
            if steps is not None:  # else it is the root itself
                text = step if type(step) is str else step_text(step)
                name, place = f"{above}.{text}" if steps else text, (step, steps)
            if steps == ():
                own = next(parts, None)
                here = own if own is not None and _is_part(node) else None
            budget -= 1 + len(name) // 64
            if budget < 0:
                yield None, ()
                return
            below = [] if type(node) in _LEAVES or id(node) in open_ids else inside(node)
            if not below or isinstance(node, Opaque):
                yield Leaf(name, here, node, name), place
            if below:
                budget -= _AGAIN if id(node) in met else 0
                met.add(id(node))
                open_ids.add(id(node))
                levels.append((id(node), name, here, place, iter(below)))
                break
        else:
            levels.pop()
            open_ids.discard(owner)


def _parts(tree: Any) -> Sequence[str]:
    """The names of what stands at the top of a dict, each its own."""
    if not isinstance(tree, Mapping):
        return []
    keys = list(tree)
    names = [step_text(key) or bracketed((key,)) for key in keys]
    return distinct(names, lambda position: (keys[position],))


def _named(found: list[Leaf], places: list[_Steps]) -> list[Leaf]:
    # An empty name is the root's, where that is a leaf, and no key's.
    names = [leaf.name or bracketed(_path(places[at])) for at, leaf in enumerate(found)]
    apart = distinct(names, lambda position: _path(places[position]))
    return [
        leaf if leaf.name == name else leaf._replace(name=name)
        for leaf, name in zip(found, apart, strict=True)
    ]


def _path(steps: _Steps) -> Path:
    path = []
    while steps:
        step, steps = steps
        path.append(step)
    return tuple(reversed(path))


def inside(node: Any) -> list[tuple[Any, Any]]:
    """The steps and values below a node; empty for what counts as one leaf."""
    if type(node) in _LEAVES:
        return []
    if isinstance(node, Opaque):
        return _inside_opaque(node)
    if isinstance(node, SizeRef) or is_plain_sequence(node):
        return []
    return children_of(node)


def is_plain_sequence(node: Any) -> bool:
    """Whether a node is a list, tuple or set of numbers and text only."""
    return isinstance(node, list | tuple | set | frozenset) and all(
        isinstance(item, _SCALARS) for item in node
    )


def _inside_opaque(node: Opaque) -> list[tuple[Any, Any]]:
    state = module_state(node)
    if state is not None:
        return [
            *((name, value) for name, value, _ in own_tensors(state)),
            *(pair for pair in state.items() if _is_attribute(*pair) or _is_object(*pair)),
            *(pair for pair in pairs_of(state["_modules"]) if pair[1] is not None),
        ]
    return [
        *(pair for pair in children_of(node.state) if not _is_empty(pair[1])),
        *enumerate(node.items),
        *((key, value) for key, value in node.pairs),
        *((f"({position})", value) for position, value in enumerate(node.args)),
        *node.kwargs.items(),
    ]


def _is_object(name: Any, value: Any) -> bool:
    """Whether an entry of a module's ``__dict__`` is an object, such as its configuration."""
    is_own = type(name) is str and not name.startswith("_")
    return is_own and type(value) is Opaque and module_state(value) is None


def _is_attribute(name: Any, value: Any) -> bool:
    """Whether an entry of a module's ``__dict__`` says how it was made, and is no bookkeeping."""
    if type(name) is not str or name.startswith("_") or (_is_empty(value) and value is not None):
        return False
    values = list(value.values()) if type(value) is dict else [value]
    return all(isinstance(each, _ATTRIBUTES) or is_plain_sequence(each) for each in values)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping | list | tuple | set) and not value)


def _is_part(child: Any) -> bool:
    if type(child) in _LEAVES:
        return False
    return isinstance(child, Mapping | Opaque) or bool(inside(child))
