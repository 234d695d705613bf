"""Where the bytes of a checkpoint are: nested areas, few enough to be drawn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from holdfast.report.facts import TensorFacts

#: More areas than these nobody tells apart; the smallest ones are drawn as one.
MOST = 600
#: Deeper names are one step from there on.
_DEEPEST = 32


class Area(NamedTuple):
    """One area: ``id`` is the dotted name it stands for, ``parent`` the id of the one around it."""

    id: str
    parent: str
    label: str
    nbytes: int
    tensors: int


def areas(tensors: Iterable[TensorFacts], most: int = MOST) -> list[Area]:
    """The areas of all tensors by the steps of their names, the whole (id "") first.

    Bytes that several tensors share count for the first of them. Of what is smaller than a share of
    the whole, one area ``… N more`` stands beside its larger siblings.
    """
    sizes: dict[str, list[int]] = {"": [0, 0]}
    parents = {"": ""}
    for tensor in tensors:
        nbytes = 0 if tensor.shares_with or tensor.same_as else tensor.nbytes
        steps = tensor.name.split(".", _DEEPEST)
        around = [".".join(steps[:depth]) for depth in range(len(steps) + 1)]
        for parent, name in pairwise(["", *around]):
            parents.setdefault(name, parent)
        for name in dict.fromkeys(around):
            found = sizes.setdefault(name, [0, 0])
            found[0] += nbytes
            found[1] += 1
    kept = _largest(sizes, most)
    made, rest = [], dict[str, list[int]]()
    for name, (nbytes, count) in sizes.items():
        parent = parents[name]
        if name in kept:
            label = name[len(parent) + 1 :] if parent else name
            made.append(Area(name, parent, label, nbytes, count))
        elif parent in kept:
            other = rest.setdefault(parent, [0, 0])
            other[0] += nbytes
            other[1] += count
    made += [
        Area(f"{parent}.…", parent, f"… {count} more", nbytes, count)
        for parent, (nbytes, count) in rest.items()
    ]
    return made


def _largest(sizes: dict[str, list[int]], most: int) -> set[str]:
    """So many of the largest; what is around one is at least as large, and so is among them."""
    order = sorted(sizes, key=lambda name: (-sizes[name][0], name.count("."), name))
    return {"", *order[:most]}
