"""The members ``storages`` and ``tensors`` of torch's tar files: pickles with numbers between them.

``storages``: a count, so many times a pickle (key, location, class) and a storage (eight bytes for
the number of elements, then the elements), and a list of views (key, root key, offset, numel).
``tensors``: a count, so many times a pickle (key, storage key, class) and the sizes. Numbers are
little-endian, on every machine.
"""

from __future__ import annotations

import struct
from typing import Any

from holdfast.errors import TruncatedError
from holdfast.formats.persistent_ids import element_type, none_here, text, with_source
from holdfast.io.source import Source
from holdfast.pickles import checks
from holdfast.pickles.machine import Machine
from holdfast.pickles.sequence import read_next
from holdfast.pickles.table import STORAGES
from holdfast.spec.index import Extent, StorageRef, TensorRef

_COUNT = 8
_WINDOW = 512
_MOST_AXES = 64


class Tensors:
    """Storages and tensors by the keys that the pickle names them with: addresses, as integers."""

    def __init__(self) -> None:
        self.extents: dict[str, Extent] = {}
        self.symbols: dict[str, None] = {}
        self._views: dict[int, tuple[StorageRef, int]] = {}
        self._made: dict[int, StorageRef | TensorRef] = {}

    def __call__(self, m: Machine, pid: Any) -> Any:
        """The node of a persistent id: a key, or a class with its program text.

        Raises:
            RefusedError: it is neither, or nothing has that key.
        """
        if type(pid) is tuple and len(pid) == 3:
            return with_source(m, pid[0], pid[2])
        key = _key(pid)
        if key is None or key not in self._made:
            raise m.refused("a persistent id names a storage or a tensor", found=m.shown(pid))
        return self._made[key]

    def add_storage(self, m: Machine, said: Any, numel: int, source: Source, start: int) -> int:
        """Keep a storage whose elements begin at ``start``; gives the offset behind them.

        Raises:
            RefusedError: it is no storage, or is there twice.
            TruncatedError: the member ends before it does.
        """
        raw_key, raw_location, cls = said if type(said) is tuple and len(said) == 3 else (None,) * 3
        key, location, dtype = _key(raw_key), text(raw_location), element_type(cls)
        if key is None or location is None or dtype is None or numel < 0:
            raise m.refused("a storage is a key, a place and a class", found=m.shown(said))
        ref = StorageRef(str(key), dtype, numel, location)
        self._add(m, key, ref)
        _check_room(source, m, start + ref.nbytes)
        place = source.origin + start
        self.extents[ref.key] = Extent(source.name, place, ref.nbytes, None, f"storage {key}")
        return start + ref.nbytes

    def add_view(self, m: Machine, said: Any) -> None:
        """Keep a view ``(key, root key, offset, numel)`` of a storage, which may be a view too.

        Raises:
            RefusedError: it is none, or does not lie inside its root.
        """
        is_view = type(said) is tuple and len(said) == 4
        key, root, offset, numel = map(_key, said) if is_view else (None,) * 4
        if key is None or root is None or offset is None or numel is None:
            raise m.refused("a view is two keys, an offset and a length", found=m.shown(said))
        inside = self._made.get(root)
        if type(inside) is not StorageRef or not inside.numel >= offset + numel >= numel >= 0:
            raise m.refused("a view lies inside its storage", found=m.shown(said))
        whole, before = self._views.get(root, (inside, 0))
        ref = StorageRef(str(key), whole.dtype, numel, whole.location)
        self._add(m, key, ref)
        self._views[key] = whole, before + offset
        extent = self.extents[whole.key]
        start = extent.offset + (before + offset) * whole.dtype.itemsize
        self.extents[ref.key] = Extent(extent.file, start, ref.nbytes, None, f"storage {key}")

    def add_tensor(self, m: Machine, said: Any, geometry: tuple[Any, ...]) -> None:
        """Keep a tensor ``(key, storage key, class)`` of these sizes, strides and offset.

        Raises:
            RefusedError: it is none, or does not lie inside its storage.
        """
        raw_key, raw_storage, _ = said if type(said) is tuple and len(said) == 3 else (None,) * 3
        key, storage_key = _key(raw_key), _key(raw_storage)
        storage = None if storage_key is None else self._made.get(storage_key)
        if key is None or storage_key is None or type(storage) is not StorageRef:
            raise m.refused("a tensor is a view of a storage", found=m.shown(said))
        sizes, strides, offset = geometry
        if not sizes and not storage.numel:  # before 0.4 a tensor without axes was an empty one
            sizes, strides = (0,), (1,)
        ref = checks.view(m, storage.dtype, storage, offset, sizes, strides)
        if storage_key in self._views:  # so that what shares memory says so
            ref.storage, before = self._views[storage_key]
            ref.offset += before
        self._add(m, key, ref)

    def _add(self, m: Machine, key: int, node: StorageRef | TensorRef) -> None:
        if key in self._made:
            raise m.refused("storages and tensors have keys of their own", found=f"{key} twice")
        self._made[key] = node


def read_storages(source: Source, tensors: Tensors, encoding: str) -> None:
    """Read the member ``storages``; raises FormatError where it is not what it should be."""
    part = _Part(source, "storages", tensors, encoding)
    for _ in range(part.count()):
        said = part.pickle()
        numel = int.from_bytes(part.take(_COUNT), "little", signed=True)
        part.end = tensors.add_storage(part.context, said, numel, source, part.end)
    views = part.pickle()
    if type(views) is not list:
        raise part.context.refused("the views of storages are a list", found=Machine.shown(views))
    for view in views:
        tensors.add_view(part.context, view)


def read_tensors(source: Source, tensors: Tensors, encoding: str) -> None:
    """Read the member ``tensors``; raises FormatError where it is not what it should be."""
    part = _Part(source, "tensors", tensors, encoding)
    for _ in range(part.count()):
        said = part.pickle()
        axes, _ = struct.unpack("<ii", part.take(8))
        if not 0 <= axes <= _MOST_AXES:
            raise part.context.refused(f"a tensor has at most {_MOST_AXES} axes", found=f"{axes:,}")
        numbers = struct.unpack(f"<{2 * axes + 1}q", part.take(8 * (2 * axes + 1)))
        tensors.add_tensor(part.context, said, (numbers[:axes], numbers[axes:-1], numbers[-1]))


class _Part:
    """A member read from its beginning on; ``end`` is how far, ``context`` words its letters."""

    def __init__(self, source: Source, member: str, tensors: Tensors, encoding: str) -> None:
        self._source, self._member, self._encoding = source, member, encoding
        self._tensors = tensors
        self.context = Machine(b"", persistent=none_here, file=source.name, member=member)
        self.end = 0

    def pickle(self) -> Any:
        pickled, self.end = read_next(
            self._source,
            self.end,
            persistent=none_here,
            encoding=self._encoding,
            member=self._member,
            window=_WINDOW,
        )
        foreign = (symbol for symbol in pickled.symbols if not _is_tensor(symbol))
        self._tensors.symbols.update(dict.fromkeys(foreign))
        return pickled.tree

    def count(self) -> int:
        count = self.pickle()
        if type(count) is not int or count < 0:
            raise self.context.refused("a member begins with a count", found=Machine.shown(count))
        return count

    def take(self, nbytes: int) -> bytes:
        _check_room(self._source, self.context, self.end + nbytes)
        data = self._source.read_at(self.end, nbytes)
        self.end += nbytes
        return data


def _key(value: Any) -> int | None:
    """An address: an integer, or one written out."""
    if type(value) is int:
        return value if value.bit_length() <= 64 else None
    written = text(value)
    return int(written) if written and written.isdecimal() and len(written) <= 20 else None


def _is_tensor(symbol: str) -> bool:
    """Whether a symbol is a class of tensors, which here says the element type once more."""
    module, _, name = symbol.rpartition(".")
    return name.endswith("Tensor") and (module, f"{name[:-6]}Storage") in STORAGES


def _check_room(source: Source, m: Machine, end: int) -> None:
    if end > source.size:
        raise TruncatedError(
            "a member of this file ends too early",
            file=source.name,
            member=m.member,
            wanted=f"at least {end:,} bytes",
            found=f"{source.size:,} bytes",
            cure="It was not written or copied to its end: get it again, or use an earlier one.",
        )
