"""Trees: walk them, and write the paths of their leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: A path from a tree's root: dict keys and sequence positions.
Path = tuple[Any, ...]


def dotted(path: Path) -> str:
    """A path as people write it: ``model.fc.weight``, ``optimizer.state.0.exp_avg``."""
    return ".".join(str(step) for step in path)


def walk(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every leaf with its path, depth first, in order; empty containers are leaves.

    Mappings, lists, tuples, sets (sorted by ``repr``) are walked; anything else is a leaf. A
    container met inside itself is yielded as a leaf, so that the walk ends.
    """
    yield from _walk(tree, path, ())


def _walk(node: Any, path: Path, above: tuple[int, ...]) -> Iterator[tuple[Path, Any]]:
    children = children_of(node)
    if not children or id(node) in above:
        yield path, node
        return
    for step, child in children:
        yield from _walk(child, (*path, step), (*above, id(node)))


def children_of(node: Any) -> list[tuple[Any, Any]]:
    """The steps and values directly below a node; empty for a leaf."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    if isinstance(node, set | frozenset):
        return list(enumerate(sorted(node, key=repr)))
    return []
