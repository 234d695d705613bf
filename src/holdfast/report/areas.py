"""Where the bytes of a checkpoint are: nested areas, few enough to be drawn."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

from holdfast.report.facts import TensorFacts
from holdfast.report.rows import Group, grouped, own_nbytes

#: More areas than these nobody tells apart; the smallest ones are drawn as one.
MOST = 600


class Area(NamedTuple):
    """One area: ``name`` is what the names in it begin with; ``parent`` is the id around it.

    The whole has the id 0 and no parent.
    """

    id: int
    parent: int | None
    name: str
    label: str
    nbytes: int
    tensors: int


class _Waiting(NamedTuple):
    """An area that may be drawn, the largest first; of equals the first met."""

    order: tuple[int, int]
    parent: int | None
    name: str
    label: str
    nbytes: int
    tensors: int
    group: Group | None


def areas(tensors: Sequence[TensorFacts], most: int = MOST) -> list[Area]:
    """The areas of all tensors by the steps of their names, the whole first.

    Bytes that several tensors share count for the first of them. The largest areas are there, each
    behind the one around it; what is smaller is one area ``… N more`` beside its larger siblings.
    """
    root = grouped(tensors, range(len(tensors)))
    number = count()
    waiting = [_Waiting((0, next(number)), None, "", "", root.nbytes, root.tensors, root)]
    made: list[Area] = []
    rest: dict[int, list[int]] = {}
    while waiting:
        area = heapq.heappop(waiting)
        if area.parent is not None and len(made) > most:
            other = rest.setdefault(area.parent, [0, 0])
            other[0] += area.nbytes
            other[1] += area.tensors
            continue
        made.append(Area(len(made), *area[1:-1]))
        for inner in _inside(area, made[-1].id, tensors, number):
            heapq.heappush(waiting, inner)
    for parent, (nbytes, many) in rest.items():
        name = made[parent].name
        made.append(Area(len(made), parent, name, f"… {many} more", nbytes, many))
    return made


def _inside(
    area: _Waiting, parent: int, tensors: Sequence[TensorFacts], number: Iterator[int]
) -> Iterator[_Waiting]:
    """The areas directly within one."""
    start = "" if area.parent is None else f"{area.name}."
    for each in () if area.group is None else area.group.order:
        if isinstance(each, str):
            assert area.group is not None
            below = area.group.groups[each]
            sums = (below.nbytes, below.tensors)
            order = (-below.nbytes, next(number))
            yield _Waiting(order, parent, f"{start}{each}", each, *sums, below)
            continue
        tensor = tensors[each]
        nbytes = own_nbytes(tensor)
        label = tensor.name[len(start) :]
        yield _Waiting((-nbytes, next(number)), parent, tensor.name, label, nbytes, 1, None)
