"""What of a saved part is read, and how its live state is made of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.spec.tree import Path


def _as_it_is(values: Any) -> Any:
    return values


@dataclass(frozen=True, slots=True)
class Recipe:
    """The state of one part, as matching has found it.

    ``saved`` is what of the checkpoint's tree is needed, under its own names, and ``path`` where it
    stands; ``arrange`` makes the live state of the same with tensors in place of references.
    ``is_partial`` says that names of the live part are missing in it, as was allowed; ``recast``
    are the positions of an optimizer's parameters that have another element type than the saved.
    ``names`` are a module's live names with the saved ones, ``positions`` an optimizer's with the
    keys of their states. ``late`` are live names whose tensors are read last, into their memory;
    ``held`` are such tensors of an optimizer's state by position, each None that is not late.
    ``groups`` are, per param group of a live optimizer, the saved groups that its parameters were
    in, first the one whose options it takes. ``is_its_own`` says that the state is a former one of
    the live part: its tensors get the values in it, whatever loading code makes of them.
    """

    path: Path
    saved: Any
    arrange: Callable[[Any], Any] = _as_it_is
    is_partial: bool = False
    recast: frozenset[int] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[int, Any] = field(default_factory=dict)
    late: frozenset[str] = frozenset()
    held: Mapping[int, Mapping[Any, Any]] = field(default_factory=dict)
    groups: tuple[tuple[int, ...], ...] = ()
    is_its_own: bool = False
