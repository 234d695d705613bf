"""Pickled modules as they lie in a tree: what marks one, what is its own, what is inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import RefusedError
from holdfast.spec.index import Opaque, SizeRef
from holdfast.spec.tree import Path, children_of

#: Names that the modules of one tree may have; one of 64 characters counts as one more.
BUDGET = 1_000_000
#: What a module's own name counts: it takes about as long as so many tensors.
_MODULE = 4
#: A module that was met before: real models share a few layers, and no layer very often.
_AGAIN = 50

_SLOTS = ("_parameters", "_buffers", "_modules")

#: The function that is given a traced module's ``__dict__`` (torch/fx/graph_module.py).
_TRACED = "torch.fx.graph_module.reduce_graph_module"
#: What torch.compile makes: a class called with the module (torch/_dynamo/eval_frame.py).
_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"


def is_module(node: Any) -> bool:
    """Whether a node is a whole module: an object with parameters, buffers and submodules."""
    return module_state(node) is not None


def module_state(node: Any) -> Mapping[str, Any] | None:
    """What would be a module's ``__dict__``; None when a node is no module."""
    if type(node) is not Opaque or node.is_global:
        return None
    state = node.state
    if type(state) is tuple and len(state) == 2:  # a class with slots
        state = state[0]
    if not node.has_state and node.how == "reduce":
        state = _reduced(node)
    if isinstance(state, Mapping) and all(_is_dict(state.get(slot)) for slot in _SLOTS):
        return state
    return None


def _reduced(node: Opaque) -> Any:
    """The state of what torch pickles as the call of a function."""
    inner = node.args[0] if node.args and node.called is None else None
    if node.symbol == _TRACED:
        return inner
    if node.symbol == _COMPILED and type(inner) is Opaque:
        return {"_parameters": {}, "_buffers": {}, "_modules": {"_orig_mod": inner}}
    return None


def _is_dict(slot: Any) -> bool:
    return isinstance(slot, Mapping) or (type(slot) is Opaque and not slot.is_global)


def pairs_of(slot: Any) -> list[tuple[Any, Any]]:
    """The names and values in one of a module's dicts, which may be of a class of its own."""
    if isinstance(slot, Mapping):
        return list(slot.items())
    return list(slot.pairs) if type(slot) is Opaque else []


def own_tensors(state: Mapping[str, Any]) -> Iterator[tuple[Any, Any, bool]]:
    """A module's own parameters and buffers: name, value, and whether its state dict has it."""
    for name, value in pairs_of(state["_parameters"]):
        if value is not None:
            yield name, value, True
    passing = state.get("_non_persistent_buffers_set")  # torch before 1.6 had none
    absent = passing if isinstance(passing, set | frozenset | list | tuple) else ()
    for name, value in pairs_of(state["_buffers"]):
        if value is not None:
            yield name, value, name not in absent


@dataclass(frozen=True, slots=True)
class Submodule:
    """A module inside a module, its dotted name ending in a dot; ``""`` is the outermost.

    ``state`` is None where it is no module that keeps its state as modules do, or one that is
    inside itself (``is_inside_itself``): there the walk ends.
    """

    prefix: str
    node: Any
    state: Mapping[str, Any] | None
    is_inside_itself: bool = False


class Names:
    """Counts the names that are made, so that a small file cannot describe very many.

    Raises:
        RefusedError: there are more than any model has.
    """

    def __init__(self, file: str | None = None, budget: int = BUDGET) -> None:
        self._file, self._left = file, budget

    def count(self, name: str, cost: int = 1) -> str:
        """Count a name and give it back."""
        self._left -= cost + len(name) // 64
        if self._left < 0:
            raise refused("the modules in a file have a million names at most", self._file)
        return name

    def joined(self, prefix: str, name: Any, cost: int = 1) -> str:
        """A name below a prefix, counted."""
        if type(name) is not str:
            raise refused("the names of a module's tensors and modules are text", self._file)
        return self.count(prefix + name, cost)


def refused(rule: str, file: str | None, *, found: str | None = None) -> RefusedError:
    """The error for modules that are none."""
    return RefusedError(
        f"refused: {rule}",
        file=file,
        found=None if found is None else ascii(found)[:100],
        cure='The file is broken, or made to do harm. holdfast.load(path, opaque="keep") shows it.',
    )


def submodules(module: Opaque, names: Names) -> Iterator[Submodule]:
    """A module and all those in it, in the order of its state dict; one with two names twice."""
    open_ids: set[int] = set()
    met: set[int] = set()
    stack: list[tuple[str, Any, bool]] = [("", module, False)]
    while stack:
        prefix, node, is_closing = stack.pop()
        if is_closing:
            open_ids.discard(id(node))
        elif id(node) in open_ids:
            yield Submodule(prefix, node, None, is_inside_itself=True)
        else:
            if id(node) in met:
                names.count("", _AGAIN)
            met.add(id(node))
            state = module_state(node)
            yield Submodule(prefix, node, state)
            if state is not None:
                open_ids.add(id(node))
                stack.append((prefix, node, True))
                children = [pair for pair in pairs_of(state["_modules"]) if pair[1] is not None]
                stack += [
                    (f"{names.joined(prefix, name, _MODULE)}.", child, False)
                    for name, child in reversed(children)
                ]


def outermost(tree: Any) -> Iterator[tuple[Path, Opaque]]:
    """The modules in a tree that are in no other, each once, with their paths.

    What an object of another class holds is named as if that object's holder held it.
    """
    met: dict[int, Any] = {}
    stack: list[tuple[Path, Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        if id(node) in met:
            continue
        met[id(node)] = node
        if is_module(node):
            yield path, node
        elif type(node) is Opaque:
            parts = [*node.args, *node.kwargs.values(), node.called, node.state, *node.items]
            parts += [value for _, value in node.pairs]
            stack += [(path, part) for part in reversed(parts) if _may_hold(part)]
        elif type(node) is not SizeRef:
            children = [pair for pair in children_of(node) if _may_hold(pair[1])]
            stack += [((*path, step), child) for step, child in reversed(children)]


def _may_hold(node: Any) -> bool:
    return isinstance(node, Opaque | Mapping | list | tuple)
