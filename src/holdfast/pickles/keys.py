"""What may be a dict's key or a set's item: nothing that makes hashing or comparing slow."""

from __future__ import annotations

from typing import Any

from holdfast.spec.index import (
    DeviceRef,
    DTypeRef,
    LayoutRef,
    NumpyDTypeRef,
    NumpyScalar,
    Opaque,
    SizeRef,
    SparseRef,
    TensorRef,
)

_ATOMS = frozenset({str, bytes, int, float, bool, type(None), complex})
#: Hashed by identity, or flat: whole models key their optimizer's state by parameter.
_NODES = frozenset(
    {
        *(TensorRef, SparseRef, Opaque, NumpyScalar),
        *(DTypeRef, DeviceRef, LayoutRef, NumpyDTypeRef),
    }
)
_FLAT = _ATOMS | _NODES
#: A longer integer is hashed anew each time it is looked up.
_LONGEST_INTEGER = 1024
_LONGEST_TUPLE = 64
#: Integers below this never have the same hash, except -1 and -2.
_OWN_HASH_BITS = 60
#: Python does not salt the hashes of numbers, so a file can make thousands of keys collide.
_MOST_COLLISIONS = 5000


class Hashes:
    """The hashes of keys that are not salted, to notice those made to collide."""

    __slots__ = ("_collisions", "_first")

    def __init__(self) -> None:
        self._first: dict[int, Any] = {}
        self._collisions = 0

    def are_suspicious(self, key: Any) -> bool:
        """Whether too many keys so far, this one included, share their hash with another."""
        first = self._first.setdefault(hash(key), key)
        if first is not key and first != key:
            self._collisions += 1
        return self._collisions > _MOST_COLLISIONS


def broken_rule(key: Any, hashes: Hashes) -> str | None:
    """The rule that a key breaks; None when it is fine."""
    kind = type(key)
    if kind is str or kind is bytes or kind in _NODES or kind is bool or key is None:
        return None
    if kind is tuple or kind is SizeRef:
        if len(key) > _LONGEST_TUPLE or not all(_is_flat(item) for item in key):
            return "keys are flat, short tuples, not nested ones"
    elif kind is frozenset:
        # Its items were checked when it was made; frozensets in it would compare slowly.
        if not all(_is_flat(item) or type(item) is tuple for item in key):
            return "keys are flat sets, not nested ones"
    elif kind not in _ATOMS:
        return "keys are text, bytes, numbers, None, or flat tuples of those"
    elif kind is int and key.bit_length() > _LONGEST_INTEGER:
        return f"keys have at most {_LONGEST_INTEGER} bits"
    elif kind is int and key.bit_length() <= _OWN_HASH_BITS:
        return None
    return "keys do not collide by the thousand" if hashes.are_suspicious(key) else None


def _is_flat(item: Any) -> bool:
    kind = type(item)
    return kind in _FLAT and (kind is not int or item.bit_length() <= _LONGEST_INTEGER)
