"""Match a saved state dict with a live module: names, shapes, element types, ties."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from holdfast.spec.index import StateDict
from holdfast.spec.rename import Rules
from holdfast.state import batch_counts, names, own_code
from holdfast.state.pairing import Pairing, pair, plain_name
from holdfast.state.parts import ModulePart
from holdfast.state.places import Found, Wanted
from holdfast.state.recipe import Recipe
from holdfast.state.report import PartReport, Suggestion
from holdfast.state.shapes import dtype_of, elements_of, is_lazy, is_tensor, shape_of
from holdfast.state.suggest import suggest
from holdfast.tensors.storages import place_of

_NOTHING = "nothing in the checkpoint matches it"


@dataclass(frozen=True, slots=True)
class ModuleMatch:
    """What fits of a saved state dict, under live names, and which saved name is which."""

    report: PartReport
    recipe: Recipe
    pairing: Pairing
    _live: Mapping[str, str] = field(default_factory=dict)

    def live_name(self, saved: str) -> str:
        """What the live module calls a saved name; where it has none, without wrappers' steps."""
        return self._live.get(saved) or plain_name(saved)


def wanted(part: ModulePart) -> Wanted:
    """A live module as choosing sees it; lazy parameters have no shape yet and are left out."""
    state = part.capture()
    shapes = {name: shape_of(value) for name, value in state.items() if not is_lazy(value)}
    return Wanted(part.name, part.kind, shapes)


def match_module(
    part: ModulePart, found: Found, report: PartReport, rules: Rules | None
) -> ModuleMatch:
    """What of a saved state dict fits a live module; ``report`` is the part's, to be filled in.

    Raises:
        UsageError: rules give two names one.
    """
    live = part.capture()
    saved = _entries(found, live)
    pairing = pair(live, list(saved), rules)
    compared = _compare(live, saved, pairing)
    fitting = compared.fitting
    tied = _tied(part.live, pairing.missing, fitting)
    fitting.update((name, fitting[other]) for name, other in tied)
    started = batch_counts.that_start(part.live, pairing.missing, _metadata(found.state))
    missing = [name for name in pairing.missing if name not in fitting and name not in started]
    missing, unexpected = _by_own_code(part, saved, pairing, compared, missing)
    report = replace(
        _compared_report(report, compared, found, is_empty=not live),
        missing=tuple(missing),
        unexpected=(*unexpected, *(repr(key) for key in found.state if not isinstance(key, str))),
        renamed=pairing.renamed,
        tied=tied,
        notes=(*batch_counts.notes(started), *_notes(part.live, saved, fitting)),
        suggestions=_suggestions(live, saved, fitting, pairing) if missing and unexpected else (),
    )
    live_names = {old: name for name, old in pairing.found.items()}
    new = batch_counts.without_memory(part.live, started)
    recipe = _recipe(found, len(live), fitting, pairing, new)
    return ModuleMatch(report, recipe, pairing, live_names)


def _entries(found: Found, live: Mapping[str, Any]) -> dict[str, Any]:
    """What of a saved state may be a module's; values beside a bare state dict are not of it."""
    return {
        name: value
        for name, value in found.state.items()
        if isinstance(name, str) and (found.path or name in live or is_tensor(value))
    }


class _Compared(NamedTuple):
    """Live names with the saved ones that fit; those of another shape; those of another type."""

    fitting: dict[str, str]
    differing: list[tuple[str, str, str]]
    cast: list[tuple[str, str, str]]


def _compare(live: Mapping[str, Any], saved: Mapping[str, Any], pairing: Pairing) -> _Compared:
    compared = _Compared({}, [], [])
    for name, old in pairing.found.items():
        was, now = (dtype_of(value) for value in (saved[old], live[name]))
        shapes = shape_of(saved[old]), _shape(live[name])
        if shapes[1] not in (None, shapes[0]):
            compared.differing.append((name, _words(shapes[0], was), _words(shapes[1], now)))
            continue
        compared.fitting[name] = old
        if was not in (None, now) and not is_lazy(saved[old]):
            compared.cast.append((name, str(was), str(now)))
    return compared


def _compared_report(
    report: PartReport, compared: _Compared, found: Found, *, is_empty: bool
) -> PartReport:
    """The report with what of the saved state fits, and whether that is anything at all."""
    is_refused = report.strict is True and bool(compared.differing)
    is_nothing = not (compared.fitting or is_empty or is_refused)
    return replace(
        report,
        loaded=len(compared.fitting),
        differing=tuple(compared.differing),
        cast=tuple(compared.cast),
        skipped=tuple((name, f"outside {found.prefix}*") for name in found.aside),
        problem=_NOTHING if is_nothing else None,
    )


def _words(shape: str | None, dtype: str | None) -> str:
    return f"{shape} {dtype}" if dtype else str(shape)


def _shape(live: Any) -> str | None:
    """A live tensor's shape in words; None of a lazy one, which has none yet."""
    return None if is_lazy(live) else shape_of(live)


def _by_own_code(
    part: ModulePart,
    saved: Mapping[str, Any],
    pairing: Pairing,
    compared: _Compared,
    missing: list[str],
) -> tuple[list[str], list[str]]:
    """What a module's own code would miss and not expect; names that it takes come to the fitting.

    Such code may know old names (``weight_g`` of weight normalisation) that pairing does not, and
    take other shapes.
    """
    unexpected, fitting = list(pairing.unexpected), compared.fitting
    module = names.unwrap(part.live)
    if not (missing or unexpected or compared.differing) or own_code.is_plain(module):
        return missing, unexpected
    more = {plain_name(old): old for old in unexpected if plain_name(old) not in fitting}
    resized = {name: pairing.found[name] for name, _, _ in compared.differing}
    # A new head has a shape that no code takes; the names beside it may be taken even so.
    for taken in ({**more, **resized}, more):
        tried = {name: saved[old] for name, old in {**fitting, **taken}.items()}
        result = own_code.tried(module, tried)
        if result is not None:
            break
    else:
        return missing, unexpected
    taken = {name: old for name, old in taken.items() if name not in result[1]}
    fitting.update(taken)
    compared.differing[:] = [each for each in compared.differing if each[0] not in taken]
    return (
        [name for name in missing if name in result[0]],
        [old for old in unexpected if old not in taken.values()],
    )


def _suggestions(
    live: Mapping[str, Any], saved: Mapping[str, Any], fitting: Mapping[str, str], pairing: Pairing
) -> tuple[Suggestion, ...]:
    """Rules that would match more names, of those that are not there by a tie."""
    shapes = {name: _shape(value) for name, value in live.items()}
    return suggest(
        {
            name: shape
            for name, shape in shapes.items()
            if shape is not None and (name not in fitting or name in pairing.found)
        },
        {name: shape_of(value) for name, value in saved.items()},
    )


def _tied(
    module: nn.Module, missing: tuple[str, ...], there: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Missing names of tensors that the module has under another name, which is there."""
    tensors = names.plain_tensors(module) if missing else {}
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        if name in there:
            first.setdefault(id(tensor), name)
    owners = ((name, first.get(id(tensors[name]))) for name in missing if name in tensors)
    return tuple((name, other) for name, other in owners if other is not None)


def _notes(
    module: nn.Module, saved: Mapping[str, Any], fitting: Mapping[str, str]
) -> Iterator[str]:
    """What a person should know: tensors that stay without memory, and two that become one."""
    first: dict[object, str] = {}
    for name, tensor in names.plain_tensors(module).items():
        if name not in fitting:
            if tensor.is_meta:
                yield f"{name} is not in the checkpoint and stays without memory: make it again"
            continue
        other = first.setdefault(place_of(tensor), name)
        if other != name and elements_of(saved[fitting[other]]) != elements_of(
            saved[fitting[name]]
        ):
            yield f"{name} is {other} here, and two tensors in the checkpoint: the last one counts"


def _recipe(
    found: Found,
    live_count: int,
    fitting: Mapping[str, str],
    pairing: Pairing,
    new: Mapping[str, torch.Tensor],
) -> Recipe:
    """What is read, and a state dict of it under live names; ``fitting`` gives the saved ones.

    ``new`` are tensors that the checkpoint does not have, and that begin with these values.
    """
    metadata = _moved_metadata(found, pairing)

    def arrange(values: Mapping[str, Any]) -> Any:
        state: Any = OrderedDict((name, _tensor(values[old])) for name, old in fitting.items())
        devices = [value.device for value in state.values() if isinstance(value, torch.Tensor)]
        state.update((name, value.to(devices[0])) for name, value in new.items() if devices)
        if metadata:
            state._metadata = metadata
        return state

    needed = {old: found.state[old] for old in fitting.values()}
    is_partial = len(fitting) < live_count
    return Recipe(found.path, needed, arrange, is_partial=is_partial, names=fitting)


def _tensor(value: Any) -> Any:
    """A NumPy array as the tensor that it becomes in a module."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _moved_metadata(found: Found, pairing: Pairing) -> OrderedDict[str, Any]:
    """What a state dict knows of the versions of its modules, under their live names."""
    metadata = _metadata(found.state)
    moved = OrderedDict({"": metadata[""]} if "" in metadata else {})
    for name, old in pairing.found.items():
        owner, their = name.rpartition(".")[0], (found.prefix + old).rpartition(".")[0]
        if their in metadata:
            moved[owner] = metadata[their]
    return moved


def _metadata(state: Any) -> Mapping[str, Any]:
    """What torch's state dicts know of the versions of their modules, stored or live."""
    aside = state.aside if isinstance(state, StateDict) else None
    metadata = (aside or {}).get("_metadata") or getattr(state, "_metadata", None)
    return metadata if isinstance(metadata, Mapping) else {}
