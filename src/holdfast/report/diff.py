"""What is different between two checkpoints, as facts: tensors, plain values, the record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from holdfast.report.stats import is_weight, plain

ChangeKind = Literal["changed", "cast", "renamed", "reshaped"]


class Side(NamedTuple):
    """A tensor that only one of the two has."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What two tensors with as many elements are to each other, as sums that can be added.

    ``changed`` counts elements that are not the same: of one element type bit by bit, else by
    value. Elements of which one is not finite are in no sum; ``strange`` are those that changed.
    ``dot`` is the real part of the inner product. Sums are long doubles where doubles would not
    reach.
    """

    numel: int = 0
    changed: int = 0
    strange: int = 0
    gap: Any = 0.0  # the sum of (a - b) ** 2
    a: Any = 0.0  # the sum of a ** 2
    b: Any = 0.0
    dot: Any = 0.0
    largest: float = 0.0  # the largest abs(a - b)

    def __add__(self, other: Sums) -> Sums:
        made = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        return Sums(**{**made, "largest": max(self.largest, other.largest)})

    @property
    def relative(self) -> float:
        """The norm of a - b by that of a: 0 where they are the same, infinite where a is zero."""
        if not self.gap:
            return 0.0
        return float((self.gap / self.a) ** 0.5) if self.a else math.inf

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between them; None where one is zero."""
        if not self.a or not self.b:
            return None
        return max(-1.0, min(1.0, float(self.dot / (self.a**0.5 * self.b**0.5))))

    @property
    def share(self) -> float:
        """The share of elements that changed."""
        return self.changed / self.numel if self.numel else 0.0

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "numel": self.numel,
            "changed": self.changed,
            "share": self.share,
            "relative": plain(self.relative),
            "cosine": plain(self.cosine),
            "largest": plain(self.largest),
            "strange": self.strange,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that both have, and that is not the same in them.

    ``kinds`` are all that hold: ``changed`` (other numbers), ``cast`` (another element type),
    ``reshaped`` (another shape: then there are no sums), ``renamed``. ``why`` says why there are no
    sums where the shapes agree: such a tensor differs, or cannot be compared.
    """

    name: str
    kinds: tuple[ChangeKind, ...]
    dtypes: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    old_name: str | None = None
    sums: Sums | None = None
    why: str | None = None

    @property
    def weight(self) -> float:
        """How much it changed, to sort by: what has no numbers, or no finite ones, comes first."""
        return math.inf if self.sums is None or self.sums.strange else self.sums.relative

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "name": self.name,
            "kinds": list(self.kinds),
            "dtypes": list(self.dtypes),
            "shapes": [list(shape) for shape in self.shapes],
            "old_name": self.old_name,
            "sums": None if self.sums is None else self.sums.to_json(),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of one module: those whose names are the same up to the last dot.

    ``sums`` are those of its weights (see ``is_weight``): a counter of steps beside them would say
    that everything has doubled. Where it has none, they are those of all.
    """

    name: str
    sums: Sums
    changes: tuple[Change, ...]

    @property
    def weight(self) -> float:
        """How much it changed, to sort by: what has another shape comes first."""
        odd = (each.weight for each in self.changes if each.weight == math.inf)
        return max(self.sums.relative, *odd, 0.0)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; its tensors by name."""
        names = [change.name for change in self.changes]
        return {"name": self.name, "sums": self.sums.to_json(), "tensors": names}


class ValueChange(NamedTuple):
    """A plain value, or a field of the record, as text; None on the side that has none."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What is different between two checkpoints, ``a`` and ``b``.

    ``is_equal`` says that both hold the same tensors and values, as numbers and plain data: a list
    and a tuple, a dense and a sparse tensor of the same numbers are the same. The record
    (``record``: when it was saved, by what, as which step) tells two saves of one state apart, and
    does not count.
    ``changes`` are sorted by how much they changed; ``same`` counts the tensors that are the same.
    """

    a: str
    b: str
    same: int = 0
    changes: tuple[Change, ...] = ()
    added: tuple[Side, ...] = ()
    removed: tuple[Side, ...] = ()
    values: tuple[ValueChange, ...] = ()
    record: tuple[ValueChange, ...] = ()
    same_values: int = 0
    is_complete: bool = True
    untouched: Mapping[str, Sums] = field(
        default_factory=dict
    )  # by layer, weights that are the same

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same; of what could not be listed nothing is known."""
        found = self.changes or self.added or self.removed or self.values
        return self.is_complete and not found

    def layers(self) -> list[Layer]:
        """The changed tensors by layer, the layer that changed most first."""
        found: dict[str, list[Change]] = {}
        for change in self.changes:
            found.setdefault(layer_of(change.name), []).append(change)
        made = [
            Layer(name, _sum(each, self.untouched.get(name)), tuple(each))
            for name, each in found.items()
        ]
        return sorted(made, key=lambda layer: -layer.weight)

    @property
    def likely_part(self) -> str | None:
        """The part that only one has around what both have: ``model.fc.bias`` beside ``fc.bias``.

        Compared by that part, these tensors would go together; None where there is no such part.
        """
        sides = [[each.name for each in side] for side in (self.removed, self.added)]
        for whole, inner in (sides, sides[::-1]):
            wanted = set(inner)
            found = Counter(
                part
                for part, dot, rest in (name.partition(".") for name in whole)
                if rest in wanted
            )
            for part, count in found.most_common(1):
                if 2 * count >= len(wanted):
                    return part
        return None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.is_equal,
            "same": self.same,
            "changes": [change.to_json() for change in self.changes],
            "layers": [layer.to_json() for layer in self.layers()],
            **{name: [each._asdict() for each in getattr(self, name)] for name in _LISTS},
            "same_values": self.same_values,
            "is_complete": self.is_complete,
        }

    def __str__(self) -> str:
        return f"{self.a} -> {self.b}: {self.in_words()}"

    def in_words(self) -> str:
        """What is different, counted."""
        counts: dict[str, int] = {
            kind: sum(1 for change in self.changes if kind in change.kinds) for kind in _KINDS
        }
        counts |= {"added": len(self.added), "removed": len(self.removed)}
        found = [f"{count:,} {kind}" for kind, count in counts.items() if count]
        tensors = f"{', '.join(found) or 'none changed'}, {self.same:,} the same"
        values = f"{len(self.values):,} changed" if self.values else "none changed"
        return f"tensors: {tensors}; values: {values}, {self.same_values:,} the same"


_LISTS = ("added", "removed", "values", "record")
_KINDS: tuple[ChangeKind, ...] = ("changed", "cast", "renamed", "reshaped")


def layer_of(name: str) -> str:
    """The layer of a tensor: its name up to the last dot; of a name without one, the name."""
    return name.rpartition(".")[0] or name


def _sum(changes: Iterable[Change], untouched: Sums | None) -> Sums:
    weights = [each for each in changes if is_weight(each.dtypes[0], each.shapes[0])]
    total = untouched or Sums()
    for change in weights or (changes if untouched is None else ()):
        total += change.sums or Sums()
    return total
