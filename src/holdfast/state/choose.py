"""Which mapping in a checkpoint is the state of which live part.

People keep states under many names: ``model``, ``model_state_dict``, ``state_dict``, ``module``,
``netG``, or nothing at all around them. A part's own name comes first, then what is customary, and
then whatever fits; two that fit equally well are never chosen between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import MissingPartError, UsageError
from holdfast.spec.naming import closest
from holdfast.spec.rename import Rules
from holdfast.spec.tree import Path, dotted
from holdfast.state.fitting import by_fit, optimizer_by_fit
from holdfast.state.optimizer_fit import Recorded, saved_names
from holdfast.state.places import Found, Wanted, below, containers, may_be

#: What a state is called after its part's name: ``modelA_state_dict``.
_SUFFIXES = ("_state_dict", "_state")


def choose(
    tree: Any,
    parts: Sequence[Wanted],
    *,
    select: Mapping[str, str] | None = None,
    rules: Rules | None = None,
    recorded: Recorded,
    file: str,
) -> dict[str, Found | None]:
    """The state of every part; None for one that the checkpoint lacks.

    Raises:
        UsageError: ``select`` names no part, or no place in the checkpoint.
        MissingPartError: several places fit a part; all are listed.
    """
    selected = _selected(tree, parts, select or {}, file)
    found = {part.name: selected.get(part.name) or _by_its_name(tree, part) for part in parts}
    taken = {each.path for each in found.values() if each is not None}
    left = [part for part in parts if found[part.name] is None]
    fitting = {
        part.name: by_fit(tree, part, taken, rules, file)
        for part in left
        if part.kind != "optimizer"
    }
    if optimizers := [part for part in left if part.kind == "optimizer"]:
        # They go by the names of parameters, so the places of modules must be known.
        modules = [(part, {**found, **fitting}[part.name]) for part in parts if part.shapes]
        known = saved_names(modules, rules)
        fitting |= {
            part.name: optimizer_by_fit(tree, part, taken, known, recorded, file)
            for part in optimizers
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
    mappings = {dotted(path): (path, node) for path, node in containers(tree) if path}
    if place in mappings:
        return Found(*mappings[place], "selected")
    for path, node in [((), tree), *mappings.values()]:
        prefix = f"{place.removeprefix(f'{dotted(path)}.' if path else '')}."
        if isinstance(node, Mapping) and any(str(key).startswith(prefix) for key in node):
            return below(path, node, prefix)._replace(why="selected")
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
        if state is not None and may_be(state, part):
            return Found((key,), state, None if key == part.name else f"it is called {key!r}")
    return None
