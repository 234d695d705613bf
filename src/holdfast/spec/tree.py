"""Trees: walk them, and write the paths of their leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

#: A path from a tree's root: dict keys and sequence positions.
Path = tuple[Any, ...]


def dotted(path: Path) -> str:
    """A path as people write it: ``model.fc.weight``, ``optimizer.state.0.exp_avg``."""
    return ".".join(map(step_text, path))


def bracketed(path: Path) -> str:
    """A path as Python indexes it: ``['model']['fc.weight']``, ``['state'][0]``.

    It tells paths apart that are the same when dotted, as keys may hold dots, or be numbers.
    """
    return "".join(
        f"[{step!r}]" if isinstance(step, str) else f"[{step_text(step)}]" for step in path
    )


def step_text(step: Any) -> str:
    """One step of a path as text; for a number of thousands of digits, how long it is."""
    if isinstance(step, int) and step.bit_length() > 4096:
        return f"<integer of {step.bit_length()} bits>"  # str() of it is an error, or takes hours
    return str(step)


def distinct(names: Sequence[str], path_of: Callable[[int], Path]) -> Sequence[str]:
    """The names of paths, each its own: where several bear one, all of these are bracketed.

    ``path_of`` gives the path at a position. Paths that look alike even so (their keys may be
    objects) are numbered.
    """
    if len(set(names)) == len(names):
        return names
    made: dict[int, str] = {}
    while True:  # what is bracketed may be what a key is called: that is bracketed, too
        current = [made.get(position, name) for position, name in enumerate(names)]
        borne = Counter(current)
        twice = [p for p, name in enumerate(current) if borne[name] > 1 and p not in made]
        if not twice:
            break
        made.update((position, bracketed(path_of(position))) for position in twice)
    numbers = {name: count(2) for name, times in borne.items() if times > 1}
    seen: set[str] = set()
    for position, name in made.items():
        if name in seen:
            fresh = (f"{name}#{number}" for number in numbers[name])
            made[position] = next(each for each in fresh if each not in borne)
        seen.add(name)
    return [made.get(position, name) for position, name in enumerate(names)]


def children_of(node: Any) -> list[tuple[Any, Any]]:
    """The steps and values directly below a node; empty for a leaf."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    if isinstance(node, set | frozenset):
        return list(enumerate(sorted(node, key=repr)))
    return []


def walk(
    tree: Any,
    path: Path = (),
    *,
    below: Callable[[Any], list[tuple[Any, Any]]] = children_of,
) -> Iterator[tuple[Path, Any]]:
    """Yield every leaf with its path, depth first, in order; empty containers are leaves.

    Mappings, lists, tuples, sets (sorted by ``repr``) are walked; anything else is a leaf.
    ``below`` may give other children: steps and values. A container met inside itself is yielded as
    a leaf, so that the walk ends.
    """
    # A stack of our own: the nesting of somebody's object may be deeper than Python's. Each level
    # has one step of the path, so that deep trees cost no more than their depth.
    if not (children := below(tree)):
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
        children = [] if id(node) in above else below(node)
        if children:
            above.add(id(node))
            steps.append(step)
            levels.append((id(node), iter(children)))
        else:
            yield (*steps, step), node


_END: tuple[Any, Any] = (object(), None)
