"""Whether a saved state is that of a scheduler of another class, by its keys: no class is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from holdfast.state.optimizers import other_kind
from holdfast.state.report import PartReport

#: Keys that versions of torch have added or left out, or that come with the first step.
_OF_VERSIONS = frozenset(
    (
        *("verbose", "_last_lr", "_is_initial", "_get_lr_called_within_step", "_step_count"),
        *("anneal_func", "_anneal_func_type", "_anneal_strategy", "use_beta1", "default_min_lr"),
        *("scale_fn", "_scale_fn_ref", "_scale_fn_custom", "is_better"),
    )
)


def compare_keys(report: PartReport, live: Any, saved: Any, now: Any) -> PartReport:
    """The same with what the keys of a scheduler's saved state say; ``now`` is its present one.

    Keys of the checkpoint that a class of torch does not have are those of another class: nothing
    goes on as it did. Somebody's own class may have them after a step. What only the live one has
    may be that of a newer version: it stays, and is named.
    """
    if not now:  # a disabled scaler takes whatever it is given
        return report
    only_saved: dict[str, None] = {}
    only_live: dict[str, None] = {}
    for mine, theirs in states_in(saved, now):
        mine, theirs = _without_versions(mine), _without_versions(theirs)
        if problem := other_kind(mine, theirs) or _other_count(mine, theirs):
            return replace(report, problem=problem)
        only_saved |= dict.fromkeys(sorted(map(str, mine.keys() - theirs.keys())))
        only_live |= dict.fromkeys(sorted(map(str, theirs.keys() - mine.keys())))
    if only_saved and report.strict is True and _is_torchs(live):
        problem = (
            f"the state of another class: only the checkpoint has {', '.join(only_saved)}; "
            "strict=False takes it all the same"
        )
        return replace(report, problem=problem)
    both = (
        ("only in the checkpoint, and taken", only_saved),
        ("not in the checkpoint, stays as it is", only_live),
    )
    notes = (f"{what}: {', '.join(keys)}" for what, keys in both if keys)
    return replace(report, notes=(*report.notes, *notes))


def states_in(saved: Any, live: Any) -> Iterator[tuple[Mapping[Any, Any], Mapping[Any, Any]]]:
    """A saved and a live state, and those inside them, as ``SequentialLR`` has them."""
    if not isinstance(saved, Mapping) or not isinstance(live, Mapping):
        return
    yield saved, live
    for mine, now in zip(saved.get("_schedulers", ()), live.get("_schedulers", ()), strict=False):
        yield from states_in(mine, now)


def _without_versions(state: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in state.items() if key not in _OF_VERSIONS}


def _other_count(saved: Mapping[Any, Any], live: Mapping[Any, Any]) -> str | None:
    counts = [len(each.get("_schedulers", ())) for each in (saved, live)]
    if counts[0] == counts[1] or 0 in counts:
        return None
    return f"the state of {counts[0]} schedulers in one, and here are {counts[1]}"


def _is_torchs(live: Any) -> bool:
    """Whether a scheduler's class is one of torch, and so are those of all in it."""
    inside = getattr(live, "_schedulers", ())
    return type(live).__module__.startswith("torch.") and all(map(_is_torchs, inside))
