"""Modules that were pickled whole: the state dict they would give, without their classes.

A class is not in a file, but the module's ``__dict__`` is, and ``torch.nn.Module.state_dict`` reads
nothing else (torch/nn/modules/module.py): ``a.b.weight`` is ``_parameters["weight"]`` of
``_modules["b"]`` of ``_modules["a"]``. Where a class of somebody's own may do otherwise, ``flags``
says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from holdfast.pickles.module_classes import version_of
from holdfast.pickles.module_flags import flags
from holdfast.pickles.module_walk import Names, is_module, own_tensors, refused, submodules
from holdfast.spec.index import Opaque, SparseRef, StateDict, TensorRef

__all__ = ["flags", "is_module", "state_dict_of", "with_state_dicts"]

_PARAMETERS = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
#: Calls of the closed table whose last argument is ``requires_grad``.
_WITH_GRADIENT = frozenset(
    {
        "torch._utils._rebuild_wrapper_subclass",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch._utils._rebuild_device_tensor_from_numpy",
    }
)


def state_dict_of(module: Opaque, *, file: str | None = None) -> StateDict:
    """What ``model.state_dict()`` gives: names, order, detached tensors, and ``_metadata``.

    A tensor under two names is one reference. Of a module inside itself the names end there, where
    torch would go on for ever.

    Raises:
        RefusedError: two tensors bear one name, a name is no text, or there are too many.
    """
    return StateDicts(file).of(module)


def with_state_dicts(
    tree: Any, *, file: str | None = None, keep: Callable[[Opaque], bool] = lambda _: False
) -> Any:
    """The tree with every module in it replaced by its state dict, wherever it stands.

    All else stays, opaque objects too, with the modules in them replaced; keys of dicts stay as
    they are. Modules for which ``keep`` is true are left.

    Raises:
        RefusedError: a module is none: see ``state_dict_of``.
    """
    return _Replacing(StateDicts(file), keep).replaced(tree)


class StateDicts:
    """Gives the state dicts of the modules of one file; what they share is one reference."""

    def __init__(self, file: str | None = None) -> None:
        self._file = file
        self._names = Names(file)
        self._detached: dict[int, tuple[Any, Any]] = {}

    def of(self, module: Opaque) -> StateDict:
        """The state dict of one module."""
        made, metadata = StateDict(), StateDict()
        for each in submodules(module, self._names):
            if each.state is None:
                continue
            metadata[each.prefix[:-1]] = {"version": version_of(each.node, each.state)}
            for name, value, is_persistent in own_tensors(each.state):
                if is_persistent:
                    self._store(made, self._names.joined(each.prefix, name), value)
        made.aside = {"_metadata": metadata}
        return made

    def _store(self, made: StateDict, name: str, value: Any) -> None:
        if name in made:
            rule = "every tensor of a module has a name of its own"
            raise refused(rule, self._file, found=name)
        found = self._detached.get(id(value))
        if found is None:
            found = self._detached[id(value)] = (value, detached(value))
        made[name] = found[1]


def detached(value: Any) -> Any:
    """What ``Tensor.detach()`` gives: no gradient, no ``Parameter``, no attributes."""
    if isinstance(value, TensorRef | SparseRef):
        if not (value.requires_grad or value.is_parameter) and value.attributes is None:
            return value
        return replace(value, requires_grad=False, is_parameter=False, attributes=None)
    if type(value) is not Opaque or value.called is not None or not value.args:
        return value
    if value.symbol in _PARAMETERS:
        return detached(value.args[0])
    if value.symbol in _WITH_GRADIENT:
        return replace(value, args=(*value.args[:-1], False))
    return value


class _Replacing:
    """Copies a tree without its modules; what is shared or inside itself stays so."""

    def __init__(self, state_dicts: StateDicts, keep: Callable[[Opaque], bool]) -> None:
        self._state_dicts, self._keep = state_dicts, keep
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no other node gets its id

    def replaced(self, tree: Any) -> Any:
        # A stack of our own, as objects may refer to each other at any depth. Tuples are made when
        # all in them are; what can be filled later is made at once and filled at the end.
        shells: list[tuple[Any, Any]] = []
        stack: list[tuple[Any, bool]] = [(tree, False)]
        met: set[int] = set()
        while stack:
            node, is_ready = stack.pop()
            if is_ready:
                self._made[id(node)] = tuple(map(self._now, node))
            elif id(node) not in met and (kind := self._kind(node)) is not None:
                met.add(id(node))
                self._kept.append(node)
                if kind is StateDicts:
                    self._made[id(node)] = self._state_dicts.of(node)
                    continue
                if kind is tuple:
                    stack.append((node, True))
                else:
                    self._made[id(node)] = _shell(node)
                    shells.append((node, self._made[id(node)]))
                stack += [(child, False) for child in reversed(_children(node))]
        for node, shell in shells:
            self._fill(node, shell)
        return self._now(tree)

    def _now(self, node: Any) -> Any:
        return self._made.get(id(node), node)

    def _kind(self, node: Any) -> type | None:
        kind = type(node)
        if kind is Opaque:
            if node.is_global:
                return None
            return StateDicts if is_module(node) and not self._keep(node) else Opaque
        return kind if kind in (dict, StateDict, Counter, list, tuple) else None

    def _fill(self, node: Any, shell: Any) -> None:
        if type(node) is list:
            shell.extend(map(self._now, node))
        elif type(node) is not Opaque:
            for key, value in node.items():  # update() of a plain dict would lose the order
                shell[key] = self._now(value)
        else:
            shell.args = tuple(map(self._now, node.args))
            shell.kwargs = {name: self._now(value) for name, value in node.kwargs.items()}
            shell.called, shell.state = self._now(node.called), self._now(node.state)
            shell.items = [self._now(item) for item in node.items]
            shell.pairs = [(key, self._now(value)) for key, value in node.pairs]


def _shell(node: Any) -> Any:
    if type(node) is Opaque:
        return replace(node)
    made = type(node)()
    if isinstance(made, StateDict):
        made.aside = node.aside
    return made


def _children(node: Any) -> list[Any]:
    if type(node) is Opaque:
        values = (value for _, value in node.pairs)
        return [*node.args, *node.kwargs.values(), node.called, node.state, *node.items, *values]
    return list(node.values()) if isinstance(node, dict) else list(node)
