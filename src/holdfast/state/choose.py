"""Which mapping in a checkpoint is the state of which live part.

People keep states under many names: ``model``, ``model_state_dict``, ``state_dict``, ``module``,
``netG``, or nothing at all around them. A part's own name comes first, then what is customary, and
then whatever fits; two that fit equally well are never chosen between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.errors import MissingPartError, UsageError
from holdfast.spec.index import SIZED
from holdfast.spec.naming import closest
from holdfast.spec.rename import Rules
from holdfast.spec.tree import Path, dotted
from holdfast.state.pairing import pair
from holdfast.state.shapes import is_tensor, shape_of

#: What a state is called after its part's name: ``modelA_state_dict``.
_SUFFIXES = ("_state_dict", "_state")
#: What is customary where a part's own name is not there, by the part's kind.
_CUSTOMARY: dict[str, tuple[str, ...]] = {
    "module": ("model", "model_state_dict", "state_dict", "module"),
    "optimizer": ("optimizer", "optimizer_state_dict", "optim", "optimizer_states"),
    "scheduler": (
        *("scheduler", "scheduler_state_dict", "lr_scheduler", "lr_scheduler_state_dict"),
        "lr_schedulers",
    ),
    "scaler": ("scaler", "scaler_state_dict", "grad_scaler"),
}
#: What people call the one model they have: what is customary is meant for it.
_PLAIN_NAMES = frozenset({"model", "net", "network", "module"})
#: How deep states lie, and how many mappings are looked at.
_DEEPEST, _MOST_MAPPINGS = 3, 1000
#: What a Lightning checkpoint has at its top; the model's names begin with an attribute's there.
LIGHTNING = "pytorch-lightning_version"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A live part as choosing sees it: its kind, and of a module its names with their shapes."""

    name: str
    kind: str
    shapes: Mapping[str, str]
    parameters: int = 0


class Found(NamedTuple):
    """Where the state of a part is, and why it is taken from there; None: it bears its name.

    ``aside`` are names beside the state in the same mapping: those without its prefix.
    """

    path: Path
    state: Any
    why: str | None = None
    prefix: str = ""
    aside: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The path as people write it."""
        return dotted((*self.path, *self.prefix.split("."))).rstrip(".") or "the whole file"


def choose(
    tree: Any,
    parts: Sequence[Wanted],
    *,
    select: Mapping[str, str] | None = None,
    rules: Rules | None = None,
    file: str,
) -> dict[str, Found | None]:
    """The state of every part; None for one that the checkpoint lacks.

    Raises:
        UsageError: ``select`` names no part, or no place in the checkpoint.
        MissingPartError: several places fit a part; all are listed.
    """
    selected = _selected(tree, parts, select or {}, file)
    found: dict[str, Found | None] = {}
    for part in parts:
        found[part.name] = selected.get(part.name) or _by_its_name(tree, part)
    taken = {each.path for each in found.values() if each is not None}
    fitting = {
        part.name: _by_fit(tree, part, taken, rules, file)
        for part in parts
        if found[part.name] is None
    }
    _refuse_contested(fitting, file)
    return {**found, **fitting}


def _refuse_contested(fitting: Mapping[str, Found | None], file: str) -> None:
    """Two parts that want one state are not served in the order in which they were given."""
    wanted: dict[tuple[Path, str], str] = {}
    for name, found in fitting.items():
        if found is None:
            continue
        first = wanted.setdefault((found.path, found.prefix), name)
        if first != name:
            raise MissingPartError(
                f"one state in this checkpoint may be that of {first!r} or of {name!r}",
                file=file,
                found=found.place,
                cure=f"Say whose it is: select={{{name!r}: {dotted(found.path)!r}}}",
            )


def _selected(
    tree: Any, parts: Sequence[Wanted], select: Mapping[str, str], file: str
) -> dict[str, Found]:
    found = {}
    for name, place in select.items():
        if name not in {part.name for part in parts}:
            raise UsageError(
                "select= names a part that is not given",
                wanted=", ".join(repr(part.name) for part in parts),
                found=repr(name),
            )
        found[name] = _at(tree, name, place, file)
    return found


def _at(tree: Any, name: str, place: str, file: str) -> Found:
    if place == "":
        return Found((), tree, "selected")
    mappings = {dotted(path): (path, node) for path, node in _containers(tree) if path}
    if place in mappings:
        return Found(*mappings[place], "selected")
    for path, node in [((), tree), *mappings.values()]:
        prefix = f"{place.removeprefix(f'{dotted(path)}.' if path else '')}."
        if isinstance(node, Mapping) and any(str(key).startswith(prefix) for key in node):
            return _below(path, node, prefix)._replace(why="selected")
    near = closest(place, list(mappings)) or list(mappings)[:10]
    raise UsageError(
        "select= names no state in this checkpoint",
        file=file,
        wanted=f"a place for {name!r}",
        found=f"{place!r}; there are {', '.join(near) or 'none'}",
        cure='Places are dotted, as holdfast show prints them; "" is the whole file.',
    )


def _by_its_name(tree: Any, part: Wanted) -> Found | None:
    if not isinstance(tree, Mapping):
        return None
    for key in (part.name, *(part.name + suffix for suffix in _SUFFIXES)):
        state = tree.get(key)
        if state is not None and _may_be(state, part):
            return Found((key,), state, None if key == part.name else f"it is called {key!r}")
    return None


def _may_be(state: Any, part: Wanted) -> bool:
    """Whether a value may be a part's state at all (``"model": {"name": "resnet50"}`` is none)."""
    if part.kind == "module":
        has_tensors = any(shape.startswith("(") for shape in part.shapes.values())
        return isinstance(state, Mapping) and (
            not has_tensors or any(map(is_tensor, state.values()))
        )
    if part.kind == "optimizer":
        return is_optimizer_state(state)
    return part.kind not in _CUSTOMARY or isinstance(state, Mapping)


def is_optimizer_state(value: Any) -> bool:
    """Whether a value is made as torch's optimizers make their state dicts."""
    if not isinstance(value, Mapping) or not isinstance(value.get("state"), Mapping):
        return False
    groups = value.get("param_groups")
    return isinstance(groups, list | tuple) and all(map(_is_group, groups))


def _is_group(value: Any) -> bool:
    """Whether a value is a group: options, and the keys of its parameters' states."""
    if not isinstance(value, Mapping) or not isinstance(value.get("params"), list | tuple):
        return False
    names = value.get("param_names")
    keys = all(isinstance(key, int | str) for key in value["params"])
    return keys and (names is None or isinstance(names, list | tuple))


# ---- by what fits


class _Fit(NamedTuple):
    found: Found
    same: int
    is_full: bool
    is_customary: bool


def _by_fit(
    tree: Any, part: Wanted, taken: set[Path], rules: Rules | None, file: str
) -> Found | None:
    if part.kind == "module":
        fits = [_fit(each, part, rules) for each in _states_of_modules(tree, taken)]
        return _best(part, [fit for fit in fits if fit.same or fit.is_customary], file)
    customary = _CUSTOMARY.get(part.kind)
    if customary is None:
        return None
    places = [
        Found(path, node, f"it is the only one for a part of kind {part.kind!r}")
        for path, node in _containers(tree)
        if path not in taken and _may_be(node, part)
    ]
    if part.kind != "optimizer":
        places = [each for each in places if each.path and each.path[0] in customary]
        paths = {each.path for each in places}
        # What lies inside one of them (a scheduler's milestones) is no state of its own.
        places = [
            each for each in places if not paths & {each.path[:n] for n in range(len(each.path))}
        ]
    elif len(places) > 1:
        counts = {each.path: _parameters_in(each.state) for each in places}
        places = [each for each in places if counts[each.path] == part.parameters] or places
    if len(places) > 1:
        raise _ambiguous(part, places, file)
    return places[0] if places else None


def _parameters_in(state: Any) -> int:
    return sum(len(group["params"]) for group in state["param_groups"])


def _states_of_modules(tree: Any, taken: set[Path]) -> Iterator[Found]:
    """Every mapping with tensors in it, and of Lightning's also what is below an attribute."""
    is_lightning = isinstance(tree, Mapping) and LIGHTNING in tree
    for path, node in _containers(tree):
        if path in taken or not isinstance(node, Mapping) or not any(map(is_tensor, node.values())):
            continue
        if any(path[: len(each)] == each for each in taken if each):
            continue  # what lies in another part's state is no state of its own
        yield Found(path, node)
        if is_lightning and path == ("state_dict",):
            yield from _below_attributes(path, node)


def _below_attributes(path: Path, node: Mapping[Any, Any]) -> Iterator[Found]:
    names = [name for name in node if isinstance(name, str)]
    for prefix in dict.fromkeys(f"{name.partition('.')[0]}." for name in names if "." in name):
        yield _below(path, node, prefix)


def _below(path: Path, node: Mapping[Any, Any], prefix: str) -> Found:
    """What of a state dict has names with a prefix, without it."""
    names = [name for name in node if isinstance(name, str)]
    below = {name.removeprefix(prefix): node[name] for name in names if name.startswith(prefix)}
    aside = tuple(name for name in names if not name.startswith(prefix))
    return Found(path, below, None, prefix, aside)


def _fit(found: Found, part: Wanted, rules: Rules | None) -> _Fit:
    names = [name for name in found.state if isinstance(name, str)]
    try:
        paired = pair(part.shapes, names, rules).found
    except UsageError:
        paired = {}
    same = sum(part.shapes[name] == shape_of(found.state[old]) for name, old in paired.items())
    # A state dict with nothing around it is customary, too.
    is_customary = not found.prefix and (not found.path or found.path[0] in _CUSTOMARY["module"])
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
    good = [fit for fit in good if fit.found.prefix == f"{part.name}."] or good
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


def _containers(tree: Any) -> Iterator[tuple[Path, Any]]:
    """Mappings at any place down to a depth, the root first; no others lie in those of tensors."""
    todo: list[tuple[Path, Any]] = [((), tree)]
    count = 0
    while todo and count < _MOST_MAPPINGS:
        path, node = todo.pop(0)
        if isinstance(node, Mapping):
            count += 1
            yield path, node
        if len(path) >= _DEEPEST:
            continue
        if isinstance(node, Mapping):
            steps: Any = node.items()
        else:
            steps = enumerate(node) if isinstance(node, list | tuple) else ()
        todo += [
            ((*path, step), child)
            for step, child in steps
            if isinstance(child, Mapping | list | tuple) and not isinstance(child, SIZED)
        ]
