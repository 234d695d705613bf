"""One tensor to be written: its new name, its type, where its elements come from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdfast.arrays.numbers import PACKED
from holdfast.arrays.read import Reader
from holdfast.arrays.stream import elements, numbers
from holdfast.converting.casting import cast
from holdfast.converting.types import dtype_of, target_of
from holdfast.errors import UsageError
from holdfast.io.sink import Buffer
from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.spec.identity import identity
from holdfast.spec.index import SparseRef, TensorRef

#: Elements that are cast at once: a piece of small ones is many times as large in between.
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor to be written; ``dtype`` is its type in the new file, ``found`` that in the old.

    ``old_name`` is its name in the source; ``tied_to`` the name of the item whose elements are
    these, too. ``cast`` is None where the elements are copied as they are.
    """

    name: str
    old_name: str
    node: Any
    shape: tuple[int, ...]
    found: DType
    dtype: DType
    cast: DType | None = None
    tied_to: str | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of its elements in the new file."""
        numel = 1
        for size in self.shape:
            numel *= size
        return self.dtype.nbytes_of(numel)

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return {
            "name": self.name,
            "old_name": self.old_name,
            "shape": list(self.shape),
            "old_dtype": self.found.name,
            "dtype": self.dtype.name,
            "nbytes": 0 if self.tied_to else self.nbytes,
            "tied_to": self.tied_to,
        }


def items_of(
    tensors: Mapping[str, Any], names: Mapping[str, str], wanted: DType | None, file: str
) -> list[Item]:
    """The items of tensors by their old names; ``names`` has the new ones.

    Raises:
        UsageError: a tensor has no values, or a type that no file of weights can hold.
    """
    made = [_item(names[old], old, node, wanted, file) for old, node in tensors.items()]
    kept: dict[Hashable, str] = {}
    for item in sorted(made, key=lambda item: item.name):
        kept.setdefault(identity(item.node), item.name)
    tied = [(item, kept[identity(item.node)]) for item in made]
    return [replace(i, tied_to=None if first == i.name else first) for i, first in tied]


def _item(name: str, old: str, node: Any, wanted: DType | None, file: str) -> Item:
    found, cast = dtype_of(node), target_of(node, wanted)
    if found is None:
        raise _unfit(old, file, f"NumPy's {node.dtype_str}", "Convert it before, or leave it out.")
    if isinstance(node, SparseRef):
        raise _unfit(old, file, f"{node.layout}", "Make it dense before: tensor.to_dense().")
    if cast is None and found.name in PACKED:
        raise _unfit(old, file, found.torch_name, "Convert it: --dtype float32.")
    if isinstance(node, TensorRef) and node.storage is None and node.numel:
        raise _unfit(old, file, "a meta tensor, without values", "Save it from a real device.")
    return Item(name, old, node, tuple(node.shape), found, cast or found, cast)


def check_for_torch(items: Iterable[Item], file: str) -> None:
    """Refuse tensors of a type that torch lacks.

    Raises:
        UsageError: one is.
    """
    for item in items:
        if item.dtype.name not in BY_NAME:
            raise _unfit(item.old_name, file, item.dtype.name, "Convert it: --dtype float32.")


def _unfit(name: str, file: str, found: str, cure: str) -> UsageError:
    return UsageError(
        "this tensor cannot stand in a file of weights",
        file=file,
        tensor=name,
        found=found,
        cure=cure,
    )


class Elements:
    """Streams the bytes of items, and counts the numbers that their new type cannot hold."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.unfit: dict[str, int] = {}

    def of(self, item: Item) -> Iterator[Buffer]:
        """The bytes of an item, in pieces.

        Raises:
            DamagedError: the source's bytes are not those that were saved.
        """
        if item.cast is None:
            for piece in elements(item.node, self._reader):
                yield _bytes(piece)
            return
        for piece in numbers(item.node, self._reader):
            for at in range(0, piece.size, _AT_ONCE):
                with np.errstate(over="ignore", invalid="ignore"):
                    made, lost = cast(piece[at : at + _AT_ONCE], item.cast)
                if lost:
                    self.unfit[item.name] = self.unfit.get(item.name, 0) + lost
                yield _bytes(made)


def _bytes(array: Any) -> Buffer:
    data: Buffer = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return data
