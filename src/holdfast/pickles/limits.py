"""Limits of a finished tree: how deep it is, and how large once written out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from holdfast.spec.index import ChunkedRef, Opaque, SparseRef, TensorRef

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

#: Containers inside containers. Real checkpoints stay below 50; simple recursion takes 200.
DEEPEST = 200
#: Nodes that a tree may describe beyond one for each byte of its pickle.
_ALLOWANCE = 1_000_000

_SCALARS = frozenset({int, float, complex, bool, str, bytes, bytearray, type(None)})


def check_tree(tree: Any, m: Machine) -> None:
    """Refuse a tree too deep, or one that a few shared containers blow up beyond all bounds.

    Plain containers count each time they are met, as whoever prints the tree meets them; opaque
    objects, which may refer to each other at will, once.

    Raises:
        RefusedError: a limit is passed.
    """
    left = len(m.data) + _ALLOWANCE
    open_ids: set[int] = set()
    met: set[int] = set()
    path: list[tuple[int, Iterator[Any]]] = [(0, iter([tree]))]
    while path:
        node = next(path[-1][1], path)
        if node is path:
            open_ids.discard(path.pop()[0])
            continue
        if id(node) in open_ids or id(node) in met:
            continue
        children = inside(node)
        left -= len(children) + 1
        if left < 0:
            raise m.refused("a tree is not much larger than the pickle it comes from")
        if len(path) > DEEPEST:
            raise m.refused(f"a tree is at most {DEEPEST} levels deep")
        if not children:
            continue
        if type(node) is Opaque:
            met.add(id(node))
        open_ids.add(id(node))
        path.append((id(node), iter(children)))


def inside(node: Any) -> list[Any]:
    """What lies directly in a node, plain numbers and text left out."""
    kind = type(node)
    if kind is TensorRef:
        found: Any = (node.attributes, node.subclass)
        if node.quantizer is not None:
            found = (*found, node.quantizer.scale, node.quantizer.zero_point)
    elif kind is Opaque:
        found = [*node.args, *node.kwargs.values(), node.called, node.state, *node.items]
        found += [part for pair in node.pairs for part in pair]
    elif isinstance(node, Mapping):
        found = [*node.keys(), *node.values(), getattr(node, "aside", None)]
    elif isinstance(node, list | tuple | set | frozenset):
        found = node
    elif kind is SparseRef:
        found = [*node.components.values(), node.attributes, node.subclass]
    elif kind is ChunkedRef:
        found = [chunk.ref for chunk in node.chunks]
    else:
        return []
    return [item for item in found if type(item) not in _SCALARS]


def nodes(tree: Any) -> Iterator[Any]:
    """Every node of a tree once, whatever its shape; plain numbers and text are left out."""
    met: dict[int, Any] = {}
    todo = [tree]
    while todo:
        node = todo.pop()
        if id(node) not in met:
            met[id(node)] = node  # kept, so that no other node gets its id
            yield node
            todo += reversed(inside(node))


def path_to(tree: Any, targets: Mapping[int, Any]) -> tuple[Any, ...]:
    """The dict keys and positions that lead to the first node whose id is a target's."""
    met: set[int] = set()
    todo: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while todo:
        path, node = todo.pop()
        if id(node) in targets:
            return path
        if id(node) in met or len(path) > DEEPEST:
            continue
        met.add(id(node))
        steps: list[tuple[Any, ...]] = []
        if isinstance(node, Mapping):
            steps = [((key,), item) for key, item in node.items() if type(key) in (str, int)]
        elif isinstance(node, list | tuple):
            steps = [((position,), item) for position, item in enumerate(node)]
        elif type(node) is Opaque:  # what is in an object is named as if the object held it
            steps = [((), item) for item in (*node.args, node.state, *node.items)]
        todo += [
            ((*path, *step), item) for step, item in reversed(steps) if type(item) not in _SCALARS
        ]
    return ()
