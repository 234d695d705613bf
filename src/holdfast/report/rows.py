"""Tensors as rows of a table: a tree or a list, filtered, sorted, a window of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from holdfast.errors import UsageError
from holdfast.report.facts import TensorFacts

_KEYS: dict[str, Callable[[TensorFacts], Any]] = {
    "name": lambda each: each.name,
    "size": lambda each: -each.nbytes,
    "shape": lambda each: (-each.numel, each.shape),
    "dtype": lambda each: each.dtype,
}
#: How rows can be arranged: as a tree, as in the file, or sorted.
SORTS = ("tree", "file", *_KEYS)
#: Deeper names are one step from there on.
_DEEPEST = 32


class Line(NamedTuple):
    """One row: a tensor's place, or a group of those whose names begin with ``name``."""

    name: str
    level: int = 0
    place: int | None = None
    tensors: int = 0
    nbytes: int = 0
    is_open: bool = True


def arranged(
    tensors: Sequence[TensorFacts],
    filter: str = "",
    sort: str = "tree",
    closed: Collection[str] = (),
) -> list[Line]:
    """The tensors whose names hold ``filter`` (in any case), in the order asked for.

    In a tree, the groups stand above what is in them, and what is in a closed one is left out.

    Raises:
        UsageError: there is no such order.
    """
    if sort not in SORTS:
        raise UsageError(
            "rows are not sorted by that", wanted=", ".join(SORTS), found=repr(sort)[:100]
        )
    wanted = filter.casefold()
    places = [at for at, each in enumerate(tensors) if wanted in each.name.casefold()]
    if sort == "tree":
        return _tree(tensors, places, frozenset(closed))
    if sort != "file":
        places.sort(key=lambda at: _KEYS[sort](tensors[at]))
    return [Line(tensors[at].name, place=at) for at in places]


class Group:
    """What lies below one step of names: groups by step, and tensors by place, as first met.

    ``nbytes`` counts bytes that several tensors share for the first of them.
    """

    __slots__ = ("groups", "nbytes", "order", "tensors")

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.order: list[str | int] = []
        self.tensors = self.nbytes = 0


def own_nbytes(tensor: TensorFacts) -> int:
    """The bytes that are this tensor's: of what it shares or only repeats, none."""
    is_own = not (tensor.shares_with or tensor.same_as or tensor.is_expanded)
    return tensor.nbytes if is_own else 0


def grouped(tensors: Sequence[TensorFacts], places: Iterable[int]) -> Group:
    """The tensors at these places by the steps of their names."""
    root = Group()
    for at in places:
        tensor = tensors[at]
        nbytes = own_nbytes(tensor)
        group = root
        group.tensors += 1
        group.nbytes += nbytes
        for step in tensor.name.split(".", _DEEPEST)[:-1]:
            below = group.groups.get(step)
            if below is None:
                below = group.groups[step] = Group()
                group.order.append(step)
            group = below
            group.tensors += 1
            group.nbytes += nbytes
        group.order.append(at)
    return root


def _tree(
    tensors: Sequence[TensorFacts], places: Sequence[int], closed: frozenset[str]
) -> list[Line]:
    made: list[Line] = []
    _put(grouped(tensors, places), (), tensors, closed, made)
    return made


def _put(
    group: Group,
    above: tuple[str, ...],
    tensors: Sequence[TensorFacts],
    closed: frozenset[str],
    made: list[Line],
) -> None:
    for each in group.order:
        if isinstance(each, int):
            made.append(Line(tensors[each].name, len(above), each))
            continue
        below, path = group.groups[each], (*above, each)
        name = ".".join(path)
        is_open = name not in closed
        made.append(Line(name, len(above), None, below.tensors, below.nbytes, is_open))
        if is_open:
            _put(below, path, tensors, closed, made)


def row(line: Line, tensors: Sequence[TensorFacts], total: int) -> dict[str, Any]:
    """One row as JSON values; ``share`` is that of ``total`` bytes."""
    if line.place is None:
        values = line._asdict()
        del values["place"]
        return {**values, "share": line.nbytes / total if total else 0.0}
    tensor = tensors[line.place]
    return {
        "name": tensor.name,
        "level": line.level,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "nbytes": tensor.nbytes,
        "share": own_nbytes(tensor) / total if total else 0.0,
        "note": _note(tensor),
    }


def _note(tensor: TensorFacts) -> str:
    notes = [tensor.kind] if tensor.kind not in ("tensor", "parameter") else []
    if tensor.same_as:
        notes.append(f"same bytes as {tensor.same_as}")
    elif tensor.shares_with:
        notes.append(f"in the storage of {tensor.shares_with}")
    if tensor.is_expanded:
        notes.append("expanded")
    return ", ".join(notes)
