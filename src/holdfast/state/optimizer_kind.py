"""Whether a saved state is that of an optimizer of another class or with other options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from holdfast.state.equal import same
from holdfast.state.optimizers import OF_THE_DEVICE, other_kind

#: Keys of a group that are no options.
GROUP_KEYS = ("params", "param_names")


def other_class(saved: Mapping[str, Any], live: torch.optim.Optimizer) -> str | None:
    """Why a state seems to be that of an optimizer of another class, by its options and keys."""
    groups = saved["param_groups"]
    if groups and (problem := other_kind(groups[0], live.param_groups[0])) is not None:
        return problem
    states = (each for each in saved["state"].values() if isinstance(each, Mapping))
    keys = {key: None for each in states for key in each if isinstance(key, str)}
    return other_kind(keys, _keys_of_a_step(live))


def _keys_of_a_step(live: torch.optim.Optimizer) -> dict[str, None]:
    """What an optimizer of torch keeps of parameters: it is asked, with two of its own."""
    if not type(live).__module__.startswith("torch.optim"):
        return {}  # somebody's own class may do anything in a step
    parameters = [torch.nn.Parameter(torch.zeros(shape, device="cpu")) for shape in ((2,), (2, 2))]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    step: Any = type(live).step
    while getattr(step, "hooked", False):  # torch's wrapper, which calls the hooks of all
        step = step.__wrapped__
    try:
        trial = type(live)(parameters, **live.defaults)
        step(trial)
    except Exception:  # LBFGS asks for a closure, SparseAdam for sparse gradients: nothing is known
        return {}
    return {key: None for parameter in parameters for key in trial.state[parameter]}


def notes_on_options(
    saved: Sequence[Any], live: torch.optim.Optimizer, sources: Sequence[tuple[int, ...]]
) -> Iterator[str]:
    """What a group's options are to be, where that is not plain."""
    for number, (now, its) in enumerate(zip(live.param_groups, sources, strict=True)):
        if not its:
            continue
        was, *others = (saved[each] for each in its)
        # AdamW's and Adam's states look alike.
        for name in _differing({"decoupled_weight_decay"}, was, now):
            yield f"{name} of group {number} becomes {was[name]}, as it was saved"
        for name in _differing(OF_THE_DEVICE, was, now):
            yield f"{name} of group {number} stays {now[name]}: it depends on where parameters are"
        if mixed := _differing([key for key in was if key not in GROUP_KEYS], was, *others):
            were = ", ".join(map(str, sorted(its)))
            yield f"group {number} was {were}, whose {', '.join(mixed)} differ: {its[0]} counts"
    yield from _of_one_group(saved, live, sources)


def _of_one_group(
    saved: Sequence[Any], live: torch.optim.Optimizer, sources: Sequence[tuple[int, ...]]
) -> Iterator[str]:
    """Options in which live groups differ that were one group: all of them get what it had."""
    for source in dict.fromkeys(its[0] for its in sources if its):
        numbers = [number for number, its in enumerate(sources) if its[:1] == (source,)]
        first, *others = (live.param_groups[number] for number in numbers)
        names = [key for key in saved[source] if key not in (*GROUP_KEYS, *OF_THE_DEVICE)]
        if differing := _differing(names, first, *others):
            values = ", ".join(f"{name} {saved[source][name]}" for name in differing)
            were = ", ".join(map(str, numbers))
            yield f"groups {were} were one group, {source}: they get its {values}"


def _differing(
    names: Iterable[str], group: Mapping[str, Any], *others: Mapping[str, Any]
) -> list[str]:
    """Those options that groups have in common, and that are not the same in all of them."""
    common = [name for name in names if all(name in each for each in (group, *others))]
    return [name for name in common if not all(same(group[name], each[name]) for each in others)]
