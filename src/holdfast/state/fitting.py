"""The state of a part by what fits: its names and shapes, and then what is customary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.errors import MissingPartError, UsageError
from holdfast.spec.rename import Rules
from holdfast.spec.tree import Path
from holdfast.state.optimizer_fit import Recorded, SavedNames, fitting
from holdfast.state.pairing import pair
from holdfast.state.places import (
    CUSTOMARY,
    Found,
    Wanted,
    bears_signs,
    containers,
    is_taken,
    may_be,
    states_of_modules,
)
from holdfast.state.shapes import is_tensor, shape_of

#: What people call the one model they have: what is customary is meant for it.
_PLAIN_NAMES = frozenset({"model", "net", "network", "module"})


class _Fit(NamedTuple):
    found: Found
    same: int
    is_full: bool
    is_customary: bool


def by_fit(
    tree: Any, part: Wanted, taken: set[Path], rules: Rules | None, file: str
) -> Found | None:
    """The state of a part that none is called after; None where nothing may be its.

    Optimizers have a way of their own.

    Raises:
        MissingPartError: several fit equally well; all are listed.
    """
    if part.kind == "module":
        fits = [_fit(each, part, rules) for each in states_of_modules(tree, taken)]
        return _best(part, [fit for fit in fits if fit.same or fit.is_customary], file)
    customary = CUSTOMARY.get(part.kind, ())
    there = _places(tree, part, taken)
    places = [each for each in there if each.path and each.path[0] in customary]
    places = _outermost(places or [each for each in there if bears_signs(each.state, part.kind)])
    if len(places) > 1:
        raise _ambiguous(part, places, file)
    return places[0] if places else None


def optimizer_by_fit(
    tree: Any,
    part: Wanted,
    taken: set[Path],
    known: Mapping[str, SavedNames],
    recorded: Recorded,
    file: str,
) -> Found | None:
    """The same of an optimizer: of several states the one that fits most of its parameters.

    Raises:
        MissingPartError: several fit equally well; all are listed.
    """
    places = _places(tree, part, taken)
    if len(places) < 2:
        return places[0] if places else None
    fits = [fitting(each, part, known, recorded) for each in places]
    best = max(fits)
    good = [each for each, fit in zip(places, fits, strict=True) if fit == best]
    if len(good) > 1:
        raise _ambiguous(part, good, file)
    return good[0]._replace(why=f"{best[0]} of its {len(part.parameters)} parameters fit it")


def _places(tree: Any, part: Wanted, taken: set[Path]) -> list[Found]:
    return [
        Found(path, node, f"it is the only one for a part of kind {part.kind!r}")
        for path, node in containers(tree)
        if not is_taken(path, taken) and may_be(node, part)
    ]


def _outermost(places: list[Found]) -> list[Found]:
    """What lies inside one of them (a scheduler's milestones) is no state of its own."""
    paths = {each.path for each in places}
    return [each for each in places if not paths & {each.path[:n] for n in range(len(each.path))}]


def _fit(found: Found, part: Wanted, rules: Rules | None) -> _Fit:
    names = [name for name in found.state if isinstance(name, str)]
    try:
        paired = pair(part.shapes, names, rules).found
    except UsageError:
        paired = {}
    same = sum(part.shapes[name] == shape_of(found.state[old]) for name, old in paired.items())
    # A state dict with nothing around it is customary, too.
    is_customary = not found.prefix and (not found.path or found.path[0] in CUSTOMARY["module"])
    is_full = same == len(part.shapes) and same > 0
    return _Fit(found, same, is_full, is_customary)


def _best(part: Wanted, fits: list[_Fit], file: str) -> Found | None:
    """What fits wholly, else what fits most; what is customary before what is not."""
    good = [fit for fit in fits if fit.is_full] or [fit for fit in fits if fit.same]
    most = max((fit.same for fit in good), default=0)
    good = [fit for fit in good if fit.same == most]
    good = [fit for fit in good if _bears(fit.found, part.name)] or good
    if part.name in _PLAIN_NAMES:
        good = [fit for fit in good if fit.is_customary] or good
    # One with nothing beside what fits is likelier than one of which that is a part.
    good = [fit for fit in good if len(fit.found.state) == most] or good
    # Of a model's attributes the one that is called as the part is.
    good = [fit for fit in good if f".{fit.found.prefix}".endswith(f".{part.name}.")] or good
    if len(good) > 1 and not _are_the_same(good):
        raise _ambiguous(part, [fit.found for fit in good], file)
    if good:
        why = f"{most} of its {len(part.shapes)} names and shapes are there"
        return good[0].found._replace(why=why)
    customary = [fit.found for fit in fits if fit.is_customary]
    if not customary:
        return None
    largest = max(customary, key=lambda each: sum(map(is_tensor, each.state.values())))
    return largest._replace(why="it is called so by custom" if largest.path else "it has tensors")


def _bears(found: Found, name: str) -> bool:
    """Whether a place is called after a part: ``model_ema`` after ``ema``."""
    steps = [str(step).casefold() for step in found.path]
    return any(name.casefold() in re.split(r"[^a-z0-9]+", step) for step in steps)


def _are_the_same(fits: list[_Fit]) -> bool:
    """Whether several mappings hold the very same tensors: it does not matter which is taken."""
    first, *others = ([id(value) for value in fit.found.state.values()] for fit in fits)
    return all(each == first for each in others)


def _ambiguous(part: Wanted, places: Sequence[Found], file: str) -> MissingPartError:
    listed = [each.place for each in places]
    return MissingPartError(
        f"several states in this checkpoint may be that of {part.name!r}",
        file=file,
        found="; ".join(listed[:10]),
        cure=f"Say which: select={{{part.name!r}: {places[0].place!r}}}",
    )
