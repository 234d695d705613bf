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
    # A stack of our own: the nesting of somebody's object may be deeper than Python's. Each level
    # has one step of the path, so that deep trees cost no more than their depth.
    if not (children := children_of(tree)):
        yield path, tree
        return
    above, steps = {id(tree)}, list(path)
    levels = [(id(tree), iter(children))]
    while levels:
        owner, siblings = levels[-1]
        step, node = next(siblings, _END)
        if step is _END[0]:
            levels.pop()
            above.discard(owner)
            del steps[len(path) + len(levels) - 1 :]
            continue
        children = [] if id(node) in above else children_of(node)
        if children:
            above.add(id(node))
            steps.append(step)
            levels.append((id(node), iter(children)))
        else:
            yield (*steps, step), node


_END: tuple[Any, Any] = (object(), None)


def children_of(node: Any) -> list[tuple[Any, Any]]:
    """The steps and values directly below a node; empty for a leaf."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    if isinstance(node, set | frozenset):
        return list(enumerate(sorted(node, key=repr)))
    return []
