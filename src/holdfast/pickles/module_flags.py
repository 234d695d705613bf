"""What makes the state dict of a module that was pickled whole doubtful, in plain sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from holdfast.pickles.module_classes import is_torchs_own, overrides_state_dict
from holdfast.pickles.module_walk import (
    Names,
    Submodule,
    outermost,
    own_tensors,
    pairs_of,
    submodules,
)
from holdfast.spec.index import Opaque
from holdfast.spec.tree import Path, dotted

_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks")
#: A hook of torch's own that adds a version number and nothing else.
_HARMLESS_HOOK = "torch.nn.utils.spectral_norm.SpectralNormStateDictHook"
_UNINITIALISED = frozenset(
    f"torch.nn.parameter.Uninitialized{kind}" for kind in ("Parameter", "Buffer")
)
_OVERRIDES = re.compile(r"^[ \t]+def[ \t]+(state_dict|_save_to_state_dict|get_extra_state)\b", re.M)
#: A class derived from ``nn.Module`` alone: its source text says all of it.
_IS_OF_MODULE = re.compile(r"^class[ \t]+\w+\((?:torch\.)?(?:nn\.)?Module\):", re.M)
#: Classes that one sentence names.
_NAMED = 3


def flags(
    tree: Any,
    *,
    file: str | None = None,
    overrides: Callable[[str, str], bool | None] = lambda module, name: None,
) -> tuple[str, ...]:
    """Where the state dicts rebuilt from a tree may differ from those its classes would give.

    ``overrides`` says of a class outside torch, by module and name, whether it changes what goes
    into its state dict; None where that is not known. Each class is named once, at the first place
    where it stands.

    Raises:
        RefusedError: a module in the tree is none.
    """
    found, names = _Flags(overrides), Names(file)
    met: set[int] = set()
    for path, module in outermost(tree):
        for each in submodules(module, names):
            if each.is_inside_itself or id(each.node) not in met:
                met.add(id(each.node))
                found.look_at(path, each)
    return found.notes()


class _Flags:
    def __init__(self, overrides: Callable[[str, str], bool | None]) -> None:
        self._overrides = overrides
        self._found: dict[tuple[str, str], str] = {}
        self._unknown: dict[str, None] = {}

    def look_at(self, path: Path, each: Submodule) -> None:
        node = each.node
        symbol = node.symbol if type(node) is Opaque else f"a {type(node).__name__}"
        prefix = f"{dotted(path)}.{each.prefix}" if path else each.prefix
        place = f"{prefix[:-1]} ({symbol})" if prefix else symbol
        for what, text in self._doubts(each, symbol):
            self._found.setdefault((what, symbol), f"{place} {text}")
        if each.state is not None:
            for name, value, _ in own_tensors(each.state):
                if type(value) is Opaque and value.symbol in _UNINITIALISED:
                    text = f"{prefix}{name} of {symbol} is not initialised yet: no values"
                    self._found.setdefault(("uninitialised", f"{prefix}{name}"), text)

    def _doubts(self, each: Submodule, symbol: str) -> Iterator[tuple[str, str]]:
        if each.is_inside_itself:
            yield "cycle", "is inside itself: its names end there"
        elif each.state is None:
            yield "state", "keeps its state in a form of its own: its weights are left out"
        else:
            methods = _methods(each.node)
            if methods:
                yield (
                    "source",
                    f"defines {methods} in the source text that the file carries: {_OWN}",
                )
            elif overrides_state_dict(symbol) or self._is_overriding(each.node):
                yield "class", f"changes what goes into its state dict: {_OWN}"
            if _has_hooks(each.state):
                yield "hooks", f"has state-dict hooks, which are not run: {_OWN}"

    def _is_overriding(self, node: Opaque) -> bool:
        if is_torchs_own(node.symbol) or _IS_OF_MODULE.search(node.source or ""):
            return False
        answer = self._overrides(node.module, node.name)
        if answer is None:
            self._unknown[node.symbol] = None
        return bool(answer)

    def notes(self) -> tuple[str, ...]:
        return (*self._found.values(), *([_unknown(list(self._unknown))] if self._unknown else []))


_OWN = "here are its parameters and buffers as they are"


def _methods(node: Opaque) -> str:
    found = dict.fromkeys(_OVERRIDES.findall(node.source or ""))
    return " and ".join(f"{name}()" for name in found)


def _has_hooks(state: Mapping[str, Any]) -> bool:
    hooks = [hook for slot in _HOOKS for _, hook in pairs_of(state.get(slot))]
    return any(not (type(hook) is Opaque and hook.symbol == _HARMLESS_HOOK) for hook in hooks)


def _unknown(symbols: list[str]) -> str:
    more = f" and {len(symbols) - _NAMED} more" if len(symbols) > _NAMED else ""
    override = "overrides" if len(symbols) == 1 else "override"
    return (
        f"no file says whether {', '.join(symbols[:_NAMED])}{more} {override} state_dict(): "
        "parameters and buffers are as they are"
    )
