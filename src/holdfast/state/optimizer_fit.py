"""How well a saved optimizer's state fits a live one: by the names and shapes of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.spec.rename import Rules
from holdfast.state.pairing import pair, plain_name
from holdfast.state.places import Found, Wanted
from holdfast.state.shapes import is_tensor

#: What torch's optimizers keep for every element of a parameter.
_OF_EVERY_ELEMENT = frozenset(
    (
        *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "sum", "ax"),
        *("square_avg", "grad_avg", "acc_delta", "prev", "step_size", "variance"),
    )
)


#: What the record says of an optimizer: the names of its parameters, per group and index.
Recorded = Mapping[Any, Sequence[Sequence[str | None]]]


class SavedNames(NamedTuple):
    """What the checkpoint calls a live parameter: in its record, and in a state of its own."""

    recorded: str
    alone: str


def saved_names(
    modules: Iterable[tuple[Wanted, Found | None]], rules: Rules | None
) -> dict[str, SavedNames]:
    """The saved names of the parameters of live modules, by ``part.parameter``.

    Raises:
        UsageError: rules give two names one.
    """
    made = {}
    for part, found in modules:
        if found is None or not isinstance(found.state, Mapping):
            continue
        names = [name for name in found.state if isinstance(name, str)]
        place = ".".join(map(str, found.path))
        for live, saved in pair(part.shapes, names, rules).found.items():
            made[f"{part.name}.{live}"] = SavedNames(f"{place}.{saved}", saved)
    return made


def fitting(
    place: Found, part: Wanted, known: Mapping[str, SavedNames], recorded: Recorded
) -> tuple[int, bool]:
    """How many parameters of a live optimizer a saved state fits, and whether it has no others."""
    names = recorded.get(place.path[0]) if len(place.path) == 1 else None
    groups = place.state["param_groups"]
    flat = [name for group in names or map(names_in, groups) for name in group]
    live = [
        (None if its is None else plain_name(its.alone if names is None else its.recorded), shape)
        for its, shape in ((known.get(name or ""), shape) for name, shape in part.parameters)
    ]
    keys = [key for group in groups for key in group["params"]]
    states = place.state["state"]
    # Folders of torch.distributed.checkpoint have text for keys of states.
    saved = [states.get(key, states.get(str(key))) for key in keys]
    return _fitting(live, flat, saved), len(keys) == len(live)


def _fitting(
    live: Sequence[tuple[str | None, tuple[int, ...] | None]],
    names: Sequence[str | None],
    saved: Sequence[Any],
) -> int:
    """By name where both sides have names, else by position, where counts and shapes allow it."""
    given = [plain_name(name) for name in names if name is not None]
    if len(given) == len(saved) and any(name is not None for name, _ in live):
        states = dict(zip(given, saved, strict=True))
        return sum(
            name in states and other_shape(states[name], shape) is None for name, shape in live
        )
    if len(saved) != len(live):
        return 0
    pairs = zip(live, saved, strict=True)
    fits = all(other_shape(state, shape) is None for (_, shape), state in pairs)
    return len(live) if fits else 0


def names_in(group: Any) -> list[str | None]:
    """The names that a group of a saved optimizer gives its parameters, or that are their keys."""
    if not isinstance(group, Mapping):
        return []
    keys, names = group.get("params"), group.get("param_names")
    if not isinstance(keys, list | tuple):
        return []
    given = names if isinstance(names, list | tuple) and len(names) == len(keys) else keys
    return [name if isinstance(name, str) else None for name in given]


def other_shape(state: Any, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape of a state that cannot be one of its parameter.

    Of what is not known to have an element for each of the parameter's, it is one of as many axes,
    and of sizes that are neither its own nor 1: Adafactor keeps sums along an axis.
    """
    if shape is None or not isinstance(state, Mapping):
        return None
    for name, value in state.items():
        if not is_tensor(value):
            continue
        each = tuple(value.shape)
        sizes = zip(each, shape, strict=False)
        is_other = len(each) == len(shape) and any(size not in (1, own) for size, own in sizes)
        if is_other or (name in _OF_EVERY_ELEMENT and each != shape):
            return each
    return None
