"""Match a scheduler's saved state with the live one: lists per param group follow their groups.

Schedulers keep learning rates by the position of a param group. Where an optimizer's groups are
found again by the names of their parameters, in another order or number, so are these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.state.equal import same
from holdfast.state.recipe import Recipe
from holdfast.state.report import PartReport
from holdfast.state.scheduler_kind import states_in

#: Lists that have an entry per param group, beside those whose names end so (``base_lrs``);
#: base_values are timm's. Somebody's own list may be of anything, and grow from step to step.
_OF_GROUPS, _ENDS = frozenset({"_last_lr", "lr_lambdas", "base_values"}), ("lrs", "momentums")
#: Lists of torch's schedulers that have entries for something else.
_OF_SOMETHING_ELSE = frozenset({"_schedulers", "_schedule_phases", "_milestones", "milestones"})

#: Per live param group, the saved groups whose parameters it has; the first one's values count.
Sources = Sequence[tuple[int, ...]]


def follow_groups(
    report: PartReport, recipe: Recipe, live: Any, optimizer: Recipe
) -> tuple[PartReport, Recipe]:
    """The same for a scheduler whose optimizer is restored too: its lists follow the groups.

    ``live`` is the scheduler's present state: a new group keeps what that has. Groups whose values
    differ cannot become one, unless it is allowed that not all is restored.
    """
    count, sources = len(optimizer.saved["param_groups"]), optimizer.groups
    if list(sources) == [(number,) for number in range(count)]:
        return report, recipe
    lists = list(_lists(recipe.saved, live, count, len(sources)))
    if not lists:
        return report, recipe
    merged = list(_merged(lists, sources))
    if merged and report.strict is True:
        return replace(report, problem=_cannot_merge(*merged[0], sources)), recipe
    were = ", ".join(str(each[0]) if each else "new" for each in sources)
    notes = [f"{_names(lists)} follow the param groups here, which were {were}"]
    if others := list(_perhaps_of_groups(recipe.saved, live, count, len(sources))):
        notes.append(
            f"as they were saved, though they may be of param groups: {_some(sorted(others))}"
        )
    skipped = [
        (f"{_some(names)} of group {at}", f"those of group {sources[at][0]} count")
        for at, names in merged
    ]

    def arrange(values: Any) -> Any:
        return _arranged(values, live, count, sources)

    report = replace(report, notes=(*report.notes, *notes), skipped=(*report.skipped, *skipped))
    return report, replace(recipe, arrange=arrange)


def keep_lists_of_other_groups(
    report: PartReport, recipe: Recipe, live: Any, groups: int
) -> tuple[PartReport, Recipe]:
    """The same for a scheduler whose optimizer is not restored, and has ``groups`` groups.

    Lists of another number of groups are refused, or the live ones stay where that is allowed.
    """
    counts = {len(mine) for _, mine, _ in _lists(recipe.saved, live, None, groups)} - {groups}
    if not counts:
        return report, recipe
    lists = list(_lists(recipe.saved, live, count := min(counts), groups))
    if report.strict is True:
        problem = (
            f"{_names(lists)} are those of {count} param groups, and here are {groups}: give its "
            "optimizer and model in this call too, or keep the live ones with strict=False"
        )
        return replace(report, problem=problem), recipe
    skipped = (_names(lists), "the live optimizer has another number of groups")

    def arrange(values: Any) -> Any:
        return _arranged(values, live, count, [()] * groups)

    return replace(report, skipped=(*report.skipped, skipped)), replace(recipe, arrange=arrange)


def lists_of_groups(state: Mapping[Any, Any], count: int | None) -> dict[Any, Sequence[Any]]:
    """The lists of a scheduler's state that have an entry per param group, of which are ``count``.

    None: of any number. Lists inside the states of other schedulers are not among them.
    """
    return {
        name: value
        for name, value in state.items()
        if type(value) in (list, tuple) and _is_of_groups(name) and count in (None, len(value))
    }


def _is_of_groups(name: Any) -> bool:
    return isinstance(name, str) and (name in _OF_GROUPS or name.endswith(_ENDS))


def _perhaps_of_groups(saved: Any, live: Any, count: int, groups: int) -> Iterator[str]:
    """Names of other lists that are as long as there are groups, on both sides."""
    for mine, now in states_in(saved, live):
        for name in mine.keys() & now.keys() - _OF_SOMETHING_ELSE:
            both = (mine[name], now[name])
            if _is_of_groups(name) or not all(type(each) in (list, tuple) for each in both):
                continue
            if [len(each) for each in both] == [count, groups]:
                yield str(name)


def _lists(
    saved: Any, live: Any, count: int | None, groups: int
) -> Iterator[tuple[str, Sequence[Any], Sequence[Any]]]:
    """Names of lists per param group that both states have, saved and live."""
    for mine, now in states_in(saved, live):
        there = lists_of_groups(now, groups)
        for name, value in lists_of_groups(mine, count).items():
            if name in there:
                yield str(name), value, there[name]


def _merged(
    lists: Sequence[tuple[str, Sequence[Any], Sequence[Any]]], sources: Sources
) -> Iterator[tuple[int, list[str]]]:
    """Live groups made of saved ones whose values differ, and the names of these."""
    for at, (first, *others) in ((at, each) for at, each in enumerate(sources) if each):
        names = [
            name
            for name, saved, _ in lists
            if not all(same(saved[first], saved[other]) for other in others)
        ]
        if names:
            yield at, names


def _cannot_merge(at: int, names: list[str], sources: Sources) -> str:
    were = ", ".join(map(str, sorted(sources[at])))
    return (
        f"param group {at} has parameters of groups {were}, whose {_some(names)} differ: make the "
        f"optimizer with the groups that were saved, or take those of group {sources[at][0]} with "
        "strict=False"
    )


def _arranged(saved: Any, live: Any, count: int, sources: Sources) -> Any:
    """A state whose lists per param group have the order of the live groups."""
    if not isinstance(saved, Mapping) or not isinstance(live, Mapping):
        return saved
    made, there = dict(saved), lists_of_groups(live, len(sources))
    for name, value in lists_of_groups(saved, count).items():
        if name in there:
            entries = zip(sources, there[name], strict=True)
            follow = [value[its[0]] if its else now for its, now in entries]
            made[name] = tuple(follow) if isinstance(value, tuple) else follow
    inner, theirs = saved.get("_schedulers", ()), live.get("_schedulers", ())
    if inner and len(inner) == len(theirs):
        pairs = zip(inner, theirs, strict=True)
        made["_schedulers"] = [_arranged(mine, now, count, sources) for mine, now in pairs]
    return made


def _names(lists: Sequence[tuple[str, Any, Any]]) -> str:
    return _some([name for name, _, _ in lists])


def _some(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
