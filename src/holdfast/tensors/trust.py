"""``trust=``: the classes and functions that one call may build, and the error without them."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from holdfast.errors import UntrustedError, UsageError
from holdfast.pickles.table import QSCHEMES, STORAGES, is_harmful

#: What the closed table's own symbols stand for, where a file holds them as values.
_VALUES: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    **{f"builtins.{kind.__name__}": kind for kind in (set, complex, bytearray, bytes, object)},
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch.Tensor": torch.Tensor,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{f"torch.{name}": getattr(torch, name) for name in QSCHEMES},
    **{f"{module}.{name}": getattr(torch, name.lstrip("_"), None) for module, name in STORAGES},
}

_MISSING = object()


class Trust:
    """What a call trusts, by the names a pickle gives it.

    Raises:
        UsageError: text instead of classes: a name alone would have to be imported.
    """

    def __init__(self, trusted: Iterable[Any] | Mapping[str, Any] = ()) -> None:
        self._by_symbol: dict[str, Any] = {}
        self._ids: set[int] = set()
        if isinstance(trusted, Mapping):
            trusted = (trusted,)
        elif isinstance(trusted, str) or not isinstance(trusted, Iterable):
            trusted = [trusted]
        for item in trusted:
            self._add(item)

    def _add(self, item: Any) -> None:
        if isinstance(item, Mapping):
            for symbol, stand_in in item.items():
                if not isinstance(symbol, str) or isinstance(stand_in, str):
                    raise _no_class(stand_in if isinstance(symbol, str) else symbol)
                self._by_symbol[symbol] = stand_in
                self._ids.add(id(stand_in))
            return
        name = getattr(item, "__qualname__", None)
        if not callable(item) or not isinstance(name, str):
            raise _no_class(item)
        self._by_symbol[f"{_module_of(item)}.{name}"] = item
        self._ids.add(id(item))

    def find(self, symbol: str) -> Any:
        """The object a symbol stands for; raises KeyError when it is not trusted."""
        found = self._by_symbol.get(symbol, _MISSING)
        if found is _MISSING:
            found = self._known_elsewhere(symbol)
        if found is _MISSING:
            found = _VALUES.get(symbol) or _MISSING
        if found is _MISSING:
            raise KeyError(symbol)
        return found

    def has(self, symbol: str) -> bool:
        """Whether ``find`` would find it."""
        try:
            self.find(symbol)
        except KeyError:
            return False
        return True

    def _known_elsewhere(self, symbol: str) -> Any:
        """A trusted object under another of its names: ``torch.nn.Linear`` is one of two.

        Only modules that are imported already are looked at, and nothing in them is run.
        """
        outer, _, name = symbol.rpartition(".")
        found = _attribute(sys.modules.get(outer), name)
        if found is _MISSING:  # torch._C._VariableFunctionsClass.relu is torch.relu
            module, _, kind = outer.rpartition(".")
            found = _attribute(_attribute(sys.modules.get(module), kind), name)
        return found if id(found) in self._ids else _MISSING


def _attribute(owner: Any, name: str) -> Any:
    """What stands in a module or class under a name, taken as it is."""
    found = getattr(owner, "__dict__", {}).get(name, _MISSING)
    return found.__func__ if isinstance(found, staticmethod) else found


def _module_of(item: Any) -> str:
    """The module a pickle names; functions made in C, such as ``torch.relu``, have it by class."""
    owners = (item, getattr(item, "__self__", None), getattr(item, "__objclass__", None))
    modules = (getattr(owner, "__module__", None) for owner in owners)
    return next((module for module in modules if isinstance(module, str)), "")


def _no_class(item: Any) -> UsageError:
    is_text = isinstance(item, str)
    shown = repr(item) if is_text else f"an object of class {type(item).__qualname__}"
    return UsageError(
        "trust= takes classes and functions, not their names",
        found=shown[:100],
        cure='Import them: trust=[MyClass]; for one that has moved: {"old.module.Name": MyClass}.',
    )


def untrusted(
    file: str, symbols: Mapping[str, str], *, has_modules: bool = False
) -> UntrustedError:
    """The error that names all classes and functions a file needs, with the lines to paste.

    ``symbols`` maps ``module.Outer.Inner`` to ``module``; ``has_modules`` says that the weights of
    whole models can be had without their classes.
    """
    names = sorted(symbols)
    harmful = [name for name in names if is_harmful(name) or not _is_python_name(name)]
    error = UntrustedError(
        "this file holds objects of classes or functions that you have not trusted",
        file=file,
        found=_listed(names),
        cure="\n".join(
            [
                *(_warning(harmful) if harmful else _lines_to_paste(names, symbols)),
                _without(is_harmful=bool(harmful), has_modules=has_modules),
            ]
        ),
    )
    error.symbols = tuple(names)
    return error


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 50} more" if len(names) > 50 else ""
    return ", ".join(ascii(name)[1:-1] for name in names[:50]) + more


def _is_python_name(symbol: str) -> bool:
    return symbol.isascii() and all(part.isidentifier() for part in symbol.split("."))


def _warning(harmful: list[str]) -> list[str]:
    return [f"With {_listed(harmful)} a file can run anything on this machine. Do not load it."]


def _without(*, is_harmful: bool, has_modules: bool) -> str:
    if has_modules:
        return 'Without them: holdfast.load(path, opaque="state_dict") gives the weights.'
    if is_harmful:
        return 'To see the tensors in it all the same: holdfast.load(path, opaque="keep").'
    return 'Without them: holdfast.load(path, opaque="keep").'


def _lines_to_paste(symbols: list[str], modules: Mapping[str, str]) -> list[str]:
    names = {symbol: symbol.removeprefix(f"{modules[symbol]}.") for symbol in symbols}
    outer = {symbol: name.partition(".")[0] for symbol, name in names.items()}
    homes: dict[str, set[str]] = {}
    for symbol in symbols:
        homes.setdefault(outer[symbol], set()).add(modules[symbol])
    imports, trusted = [], []
    for symbol in symbols:
        if modules[symbol] == "builtins":
            trusted.append(names[symbol])
        elif len(homes[outer[symbol]]) > 1:  # two classes of one name: both by their whole names
            imports.append(f"import {modules[symbol]}")
            trusted.append(symbol)
        else:
            imports.append(f"from {modules[symbol]} import {outer[symbol]}")
            trusted.append(names[symbol])
    return [
        "If you trust where it comes from:",
        *dict.fromkeys(imports),
        f"holdfast.load(path, trust=[{', '.join(trusted)}])",
    ]
