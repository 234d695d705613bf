"""The whole tree of a checkpoint for a new torch file: tensors re-stored, the rest plain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from holdfast.arrays import values
from holdfast.arrays.read import SIZED
from holdfast.converting.items import Item
from holdfast.converting.torch_file import Storages
from holdfast.converting.types import dtype_of
from holdfast.spec.identity import identity
from holdfast.spec.index import (
    ArrayRef,
    DeviceRef,
    DTypeRef,
    LayoutRef,
    NumpyScalar,
    SizeRef,
    SparseRef,
    StateDict,
    TensorRef,
)

_PLAIN = (int, float, complex, bool, str, bytes, bytearray, type(None))
_REFERENCES = (DTypeRef, DeviceRef, LayoutRef, SizeRef)
_LEFT_OUT = object()


class Rebuilt:
    """A tree of nodes that ``pickles.writer`` takes; ``left_out`` names what it does not.

    Objects of classes outside the closed table, raw storages, tensors without values and NumPy
    arrays of anything but numbers are left out; NumPy arrays become tensors and NumPy scalars plain
    numbers, so that ``torch.load(weights_only=True)`` opens the file.
    """

    def __init__(self, tree: Any, file: str) -> None:
        self.storages = Storages()
        self.left_out: list[str] = []
        self._file = file
        self._made: dict[Any, Any] = {}
        self._alive: list[Any] = []
        made = self._build(tree, ())
        self.tree = {} if made is _LEFT_OUT else made

    def _build(self, node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, _REFERENCES) or type(node) in _PLAIN:
            return node
        key = identity(node) if isinstance(node, TensorRef) else id(node)
        if key in self._made:
            return self._made[key]
        self._alive.append(node)
        made = self._new(node, path, key)
        if made is _LEFT_OUT:
            self.left_out.append(".".join(path))
        else:
            self._made[key] = made
        return made

    def _new(self, node: Any, path: tuple[str, ...], key: Any) -> Any:
        if isinstance(node, Counter):
            return Counter(node)
        if isinstance(node, Mapping):
            return self._mapping(node, path, key)
        if isinstance(node, list | tuple):
            return self._sequence(node, path, key)
        if isinstance(node, set | frozenset):
            return set(node)
        if isinstance(node, NumpyScalar):
            return values.scalar(node, file=self._file).item()
        if isinstance(node, SparseRef):
            return self._sparse(node, path)
        if isinstance(node, SIZED):
            return self._tensor(node, path)
        return _LEFT_OUT

    def _mapping(self, node: Mapping[Any, Any], path: tuple[str, ...], key: Any) -> Any:
        made: dict[Any, Any] = StateDict() if isinstance(node, StateDict) else {}
        self._made[key] = made  # before its values, which may lead back to it
        for name, value in node.items():
            child = self._build(value, (*path, str(name)))
            if child is not _LEFT_OUT:
                made[name] = child
        if isinstance(made, StateDict) and isinstance(node, StateDict):
            made.aside = node.aside
        return made

    def _sequence(self, node: Any, path: tuple[str, ...], key: Any) -> Any:
        made: list[Any] = []
        if isinstance(node, list):
            self._made[key] = made
        for position, value in enumerate(node):
            child = self._build(value, (*path, str(position)))
            made.append(None if child is _LEFT_OUT else child)  # what follows keeps its position
        return made if isinstance(node, list) else tuple(made)

    def _tensor(self, node: Any, path: tuple[str, ...]) -> Any:
        found = dtype_of(node)
        has_values = not isinstance(node, TensorRef) or node.storage is not None or not node.numel
        if found is None or not has_values or (isinstance(node, ArrayRef) and not node.dtype_str):
            return _LEFT_OUT
        name = ".".join(path) or "tensor"
        # Names are unique among storages only as long as they are told apart here.
        unique = f"{name}#{len(self.storages.items)}"
        return self.storages.add(Item(unique, name, node, tuple(node.shape), found, found))

    def _sparse(self, node: SparseRef, path: tuple[str, ...]) -> Any:
        parts = {name: self._build(part, (*path, name)) for name, part in node.components.items()}
        return SparseRef(node.layout, node.shape, parts, node.is_coalesced)
