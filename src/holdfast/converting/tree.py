"""The whole tree of a checkpoint for a new torch file: tensors re-stored, the rest plain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from holdfast.arrays import values
from holdfast.converting.items import Item
from holdfast.converting.torch_file import Storages
from holdfast.converting.types import dtype_of
from holdfast.pickles.limits import nodes
from holdfast.report.leaves import inside
from holdfast.spec.index import (
    SIZED,
    ArrayRef,
    DeviceRef,
    DTypeRef,
    LayoutRef,
    NumpyScalar,
    Opaque,
    SizeRef,
    SparseRef,
    StateDict,
    TensorRef,
)
from holdfast.spec.tree import Path, dotted

_PLAIN = (int, float, complex, bool, str, bytes, bytearray, type(None))
_REFERENCES = (DTypeRef, DeviceRef, LayoutRef, SizeRef)
_LEFT_OUT = object()
_ROOT = "the whole file"
#: Why an entry is not in the dict of the new file.
_ASIDE = "its key is no plain value, or is there twice"


class Rebuilt:
    """A tree of nodes that ``pickles.writer`` takes; ``left_out`` names what it does not.

    Dicts of other classes and objects with tensors in them become plain dicts. Other objects of
    classes outside the closed table, raw storages and NumPy arrays of anything but
    numbers are left out, and attributes set on tensors; NumPy arrays become tensors and NumPy
    scalars plain numbers, so that ``torch.load(weights_only=True)`` opens the file. ``items`` has
    each tensor once; ``changed`` says, by name, what is another kind of thing now.
    """

    def __init__(self, tree: Any, file: str) -> None:
        self.storages = Storages(nodes(tree))
        self.items: list[Item] = []
        self.left_out: list[str] = []
        self.changed: dict[str, str] = {}
        self._file = file
        self._made: dict[Any, Any] = {}
        self._alive: list[Any] = []
        made = self._build(tree, ())
        self.tree = {} if made is _LEFT_OUT else made

    def _build(self, node: Any, path: Path) -> Any:
        if isinstance(node, _REFERENCES) or type(node) in _PLAIN:
            return node
        if id(node) in self._made:
            return self._made[id(node)]
        self._alive.append(node)
        made = self._new(node, path, id(node))
        if made is _LEFT_OUT:
            self.left_out.append(dotted(path))
        else:
            self._made[id(node)] = made
        return made

    def _new(self, node: Any, path: Path, key: int) -> Any:
        if isinstance(node, Counter):
            return Counter(node)
        if isinstance(node, Mapping):
            return self._mapping(node, path, key)
        if isinstance(node, list | tuple):
            return self._sequence(node, path, key)
        if isinstance(node, set | frozenset):
            return set(node)
        if isinstance(node, NumpyScalar):
            self.changed[dotted(path)] = "a NumPy scalar: a plain number now"
            return values.scalar(node, file=self._file).item()
        if isinstance(node, SparseRef):
            return self._sparse(node, path)
        if isinstance(node, SIZED):
            return self._tensor(node, path)
        if type(node) is Opaque and (node.pairs or _holds_tensors(node)):
            self.changed[dotted(path) or _ROOT] = f"a {node.symbol}: a plain dict now"
            return self._mapping(self._entries(node, path), path, key)
        return _LEFT_OUT

    def _mapping(self, node: Mapping[Any, Any], path: Path, key: int) -> Any:
        made: dict[Any, Any] = StateDict() if isinstance(node, StateDict) else {}
        self._made[key] = made  # before its values, which may lead back to it
        for name, value in node.items():
            if not _is_key(name):
                self.left_out.append(f"{dotted((*path, name))} ({_ASIDE})")
                continue
            child = self._build(value, (*path, name))
            if child is not _LEFT_OUT:
                made[name] = child
        if isinstance(made, StateDict) and isinstance(node, StateDict):
            made.aside = node.aside
        return made

    def _entries(self, node: Opaque, path: Path) -> dict[Any, Any]:
        """What is in an object, by key; its own entries come before attributes of that name."""
        made: dict[Any, Any] = {}
        for step, value in reversed(inside(node)):
            if not _is_key(step) or made.setdefault(step, value) is not value:
                self.left_out.append(f"{dotted((*path, step))} ({_ASIDE})")
        return dict(reversed(made.items()))

    def _sequence(self, node: Any, path: Path, key: int) -> Any:
        made: list[Any] = []
        if isinstance(node, list):
            self._made[key] = made
        for position, value in enumerate(node):
            child = self._build(value, (*path, position))
            made.append(None if child is _LEFT_OUT else child)  # what follows keeps its position
        return made if isinstance(node, list) else tuple(made)

    def _tensor(self, node: Any, path: Path) -> Any:
        found = dtype_of(node)
        if found is None:
            return _LEFT_OUT
        self._note_class(node, path)
        if isinstance(node, ArrayRef):
            self.changed[dotted(path)] = "a NumPy array: a tensor now"
        if isinstance(node, TensorRef) and node.storage is None:
            grads = (node.requires_grad, node.is_parameter)
            return TensorRef(node.dtype, node.shape, node.stride, None, 0, *grads)
        name = dotted(path) or "tensor"
        item = Item(name, name, node, tuple(node.shape), found, found)
        self.items.append(item)
        made = self.storages.add(item)
        if isinstance(node, TensorRef):
            made.requires_grad, made.is_parameter = node.requires_grad, node.is_parameter
        return made

    def _note_class(self, node: Any, path: Path) -> None:
        subclass = getattr(node, "subclass", None)
        if subclass is not None:
            self.changed[dotted(path)] = f"a {subclass.symbol}: a plain tensor now"
        if getattr(node, "attributes", None) is not None:
            self.left_out.append(f"{dotted(path)}.__dict__")

    def _sparse(self, node: SparseRef, path: Path) -> Any:
        self._note_class(node, path)
        parts = {name: self._build(part, (*path, name)) for name, part in node.components.items()}
        return SparseRef(node.layout, node.shape, parts, node.is_coalesced)


def _is_key(step: Any) -> bool:
    """Whether a plain dict can have this key: numbers, text, types, and tuples of these."""
    if type(step) is tuple:
        return all(map(_is_key, step))
    return isinstance(step, _REFERENCES) or (type(step) in _PLAIN and type(step) is not bytearray)


def _holds_tensors(node: Opaque) -> bool:
    return any(isinstance(each, SIZED) for each in nodes(node))
