"""Match an optimizer's saved state with the live one, by the names of its parameters.

torch keeps the state by position. Here every saved state finds its parameter again by name, across
another order, other groups, added and removed parameters; by position only where nothing has names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from holdfast.state.optimizer_fit import other_shape
from holdfast.state.optimizer_kind import GROUP_KEYS, notes_on_options, other_class
from holdfast.state.places import Found, is_optimizer_state
from holdfast.state.recipe import Recipe
from holdfast.state.report import PartReport
from holdfast.state.shapes import is_tensor, sizes_of

#: Names per group, and None where a parameter's is not known.
Names = Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class _Saved:
    """A saved parameter: its group, and the key of its state."""

    group: int
    key: Any
    name: str | None


def match_optimizer(
    report: PartReport,
    live: torch.optim.Optimizer,
    names: Names,
    place: Found,
    saved_names: Names,
    resized: Container[str] = (),
) -> tuple[PartReport, Recipe | None]:
    """What of a saved state fits, and how a state in the order of the live optimizer is made of it.

    ``report`` is the part's, to be filled in; ``saved_names`` has None where no name is known;
    ``resized`` are live names of parameters that have another shape than the saved ones. Parameters
    that are new, or of another shape, start without state, those that are gone are left out: all
    are reported, and no error.
    """
    if not is_optimizer_state(place.state):
        return replace(report, problem="not the state of an optimizer"), None
    groups, states = place.state["param_groups"], place.state["state"]
    if problem := other_class(place.state, live):
        return replace(report, problem=problem), None
    places = _places(groups, saved_names, states)
    found, notes, problem = _found(live, names, places, states, resized)
    if problem is not None:
        return replace(report, problem=problem), None
    if isinstance(live, torch.optim.LBFGS) and (
        list(found.values()) != places or _is_of_another_size(live, states)
    ):
        notes = ("LBFGS keeps one state for all parameters, which are others: it starts fresh",)
        return replace(report, fresh=tuple(_shown(names)), notes=notes), _recipe(live, place, {})
    recipe = _recipe(live, place, found)
    notes = (*report.notes, *notes, *notes_on_options(groups, live, recipe.groups))
    report = replace(report, loaded=len(recipe.saved["state"]), notes=notes)
    return _counted(report, names, places, states, found), recipe


def _is_of_another_size(live: torch.optim.Optimizer, states: Mapping[Any, Any]) -> bool:
    """Whether LBFGS's vectors have other elements than all parameters together."""
    numel = sum(p.numel() for group in live.param_groups for p in group["params"])
    kept = [state for state in states.values() if isinstance(state, Mapping)]
    vectors: list[Any] = [state.get(name) for state in kept for name in ("d", "prev_flat_grad")]
    return any(is_tensor(each) and tuple(each.shape) != (numel,) for each in vectors)


def _counted(
    report: PartReport,
    names: Names,
    places: list[_Saved],
    states: Mapping[Any, Any],
    found: Mapping[int, _Saved],
) -> PartReport:
    """The report with what is on one side only."""
    flat = [name for group in names for name in group]
    taken = {each.key for each in found.values()}
    strays = tuple(_of_no_group(places, states))
    is_something = report.loaded or (taken and not strays)
    return replace(
        report,
        fresh=tuple(name for at, name in enumerate(_shown(names)) if at not in found),
        skipped=(*_left(places, taken, flat), *strays),
        problem=None if is_something or not (flat or places or states) else "nothing of it matches",
    )


def _shown(names: Names) -> list[str]:
    """The names of an optimizer's parameters in order; those without one by their position."""
    flat = [name for group in names for name in group]
    return [name or f"parameter {at}" for at, name in enumerate(flat)]


def _found(
    live: torch.optim.Optimizer,
    names: Names,
    places: list[_Saved],
    states: Mapping[Any, Any],
    resized: Container[str],
) -> tuple[dict[int, _Saved], tuple[str, ...], str | None]:
    """The saved parameter of each live position that has one, notes, and why none could be found.

    By name where both sides have names; else by position, where counts and shapes allow it.
    """
    flat = [name for group in names for name in group]
    known = {each.name: each for each in places if each.name is not None}
    if known and len(known) == len(places) and any(name is not None for name in flat):
        nameless = "parameters of models that are not given have no names: they start fresh"
        found = _by_name(live, flat, known, states, resized)
        return found, (nameless,) if None in flat else (), None
    whose = "no model in this call gives" if known else "the checkpoint has no"
    note = f"matched by position: {whose} names of its parameters"
    found, problem = _by_position(live, names, places, states)
    return found, (note,), problem


def _by_name(
    live: torch.optim.Optimizer,
    flat: Sequence[str | None],
    known: Mapping[str, _Saved],
    states: Mapping[Any, Any],
    resized: Container[str],
) -> dict[int, _Saved]:
    """The saved parameter of every live one whose name and shape it has, by position."""
    parameters = [p for group in live.param_groups for p in group["params"]]
    return {
        at: known[name]
        for at, name in enumerate(flat)
        if name is not None
        and name in known
        and name not in resized
        and other_shape(states.get(known[name].key), sizes_of(parameters[at])) is None
    }


def _left(
    places: list[_Saved], taken: Container[Any], flat: Sequence[str | None]
) -> Iterator[tuple[str, str]]:
    """The saved parameters that no live one takes, and why."""
    for each in places:
        if each.key not in taken:
            is_here = each.name is not None and each.name in flat
            reason = "parameter has another shape" if is_here else "optimizer has no such parameter"
            yield each.name or f"parameter {each.key}", f"the live {reason}"


def _of_no_group(places: list[_Saved], states: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """States whose keys are those of no parameter."""
    keys = {each.key for each in places}
    for key in states:
        if key not in keys and not _is_its_own(key):
            yield f"the state of {key!r}", "no group has such a parameter"


def _is_its_own(key: Any) -> bool:
    """Whether a key is a name that an optimizer's class has chosen for what it keeps at large."""
    return isinstance(key, str) and not key.isdigit()


def _is_at_large(key: Any, saved: Mapping[str, Any]) -> bool:
    """Whether a state is that of no parameter, but of the optimizer: torch hands it on as it is."""
    keys = {each for group in saved["param_groups"] for each in group["params"]}
    return _is_its_own(key) and key not in keys


def _places(groups: Sequence[Any], names: Names, states: Mapping[Any, Any]) -> list[_Saved]:
    """The saved parameters in order, with their names.

    Folders of torch.distributed.checkpoint have text for keys of states and numbers in groups.
    """
    places = []
    for number, group in enumerate(groups):
        given = names[number] if number < len(names) else ()
        for at, key in enumerate(group["params"]):
            found = str(key) if key not in states and str(key) in states else key
            places.append(_Saved(number, found, given[at] if at < len(given) else None))
    return places


def _by_position(
    live: torch.optim.Optimizer, names: Names, places: list[_Saved], state: Mapping[Any, Any]
) -> tuple[dict[int, _Saved], str | None]:
    """Every saved parameter with the live one at its place, where counts and shapes allow it."""
    sizes = Counter(each.group for each in places)
    was = [sizes[number] for number in range(max(sizes, default=-1) + 1)]
    now = [len(group) for group in names]
    while now and not now[-1] and len(now) > len(was):
        now.pop()
    if was != now:
        return {}, f"parameters per group: saved {was}, here {now}, and no names to go by"
    parameters = [p for group in live.param_groups for p in group["params"]]
    for at, (parameter, each) in enumerate(zip(parameters, places, strict=True)):
        other = other_shape(state.get(each.key), sizes_of(parameter))
        if other is not None:
            return {}, f"parameter {at} is {tuple(parameter.shape)} here, its saved state {other}"
    return dict(enumerate(places)), None


def _recipe(live: torch.optim.Optimizer, place: Found, found: Mapping[int, _Saved]) -> Recipe:
    """The states that are needed, and a state dict of them in the live optimizer's order.

    A group takes the options of the saved group that most of its parameters were in; one of new
    parameters only has none, and keeps its own when it is restored.
    """
    states = place.state["state"]
    at_large = {key: value for key, value in states.items() if _is_at_large(key, place.state)}
    # What a class or a hook of its own keeps beside the two.
    aside = {k: v for k, v in place.state.items() if k not in ("state", "param_groups")}
    needed = {each.key: states[each.key] for each in found.values() if each.key in states}
    options = [
        {key: value for key, value in group.items() if key not in GROUP_KEYS}
        for group in place.state["param_groups"]
    ]
    positions = _positions(live)
    groups = tuple(_sources(each, found) for each in positions)

    def arrange(values: Mapping[str, Any]) -> dict[str, Any]:
        its = (values["param_groups"][each[0]] if each else {} for each in groups)
        made = [{**its, "params": [*at]} for its, at in zip(its, positions, strict=True)]
        by_place = ((place, each.key) for place, each in found.items())
        state = {place: values["state"][key] for place, key in by_place if key in values["state"]}
        state |= {key: values["state"][key] for key in at_large}
        return {**{key: values[key] for key in aside}, "state": state, "param_groups": made}

    saved = {**aside, "state": {**needed, **at_large}, "param_groups": options}
    keys = {at: each.key for at, each in found.items() if each.key in needed}
    return Recipe(place.path, saved, arrange, positions=keys, groups=groups)


def _positions(live: torch.optim.Optimizer) -> list[range]:
    """The positions of parameters, per group."""
    ends = list(accumulate(len(group["params"]) for group in live.param_groups))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _sources(positions: Iterable[int], found: Mapping[int, _Saved]) -> tuple[int, ...]:
    """The saved groups that parameters were in, first the one that most were in."""
    counts = Counter(found[at].group for at in positions if at in found)
    return tuple(sorted(counts, key=lambda group: (-counts[group], group)))
