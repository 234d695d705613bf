"""Persistent ids of a legacy file's pickle: storages, views of them, classes with their source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.formats.persistent_ids import element_type, text, with_source
from holdfast.pickles.limits import nodes
from holdfast.pickles.machine import Machine
from holdfast.spec.dtypes import DType
from holdfast.spec.index import StorageRef, TensorRef


@dataclass(frozen=True, slots=True)
class View:
    """A part of a storage that the file calls a storage of its own; ``offset`` in elements."""

    ref: StorageRef
    root: StorageRef
    offset: int

    @property
    def nbytes_before(self) -> int:
        """The bytes of the root before the view begins."""
        return self.offset * self.ref.dtype.itemsize


class Storages:
    """The storages named so far: those with bytes of their own, and views of those, by key."""

    def __init__(self) -> None:
        self.roots: dict[str, StorageRef] = {}
        self.views: dict[str, View] = {}

    def __call__(self, m: Machine, pid: Any) -> Any:
        """The node of ``("storage", class, key, location, numel, view)`` or ``("module", …)``.

        Raises:
            RefusedError: it is neither, or contradicts what was said before.
        """
        kind = text(pid[0]) if type(pid) is tuple and pid else None
        if kind == "module" and len(pid) == 4:
            return with_source(m, pid[1], pid[3])
        if kind == "storage" and len(pid) == 6:
            root = self._root(m, pid)
            return root if pid[5] is None else self._view(m, root, pid[5])
        raise m.refused("a persistent id names a storage or a class", found=m.shown(pid))

    def _root(self, m: Machine, pid: tuple[Any, ...]) -> StorageRef:
        _, cls, raw_key, raw_location, numel, _ = pid
        key, location, dtype = text(raw_key), text(raw_location), element_type(cls)
        if key is None or location is None or dtype is None:
            raise m.refused("a persistent id names a storage", found=m.shown(pid))
        found = self.roots.get(key)
        if found is None:
            return self._new(m, key, dtype, numel, location, "Untyped" in cls.name)
        if found.numel == 0 and numel == 0:  # torch gives empty storages of any type one key
            return StorageRef(key, dtype, 0, location)
        if (found.dtype, found.numel) != (dtype, numel):
            raise m.refused("a storage is described once", found=m.shown(pid))
        return found

    def _new(
        self, m: Machine, key: str, dtype: DType, numel: Any, location: str, is_untyped: bool
    ) -> StorageRef:
        if type(numel) is not int or not 0 <= numel < 1 << 63:
            raise m.refused("a storage has a whole number of elements", found=m.shown(numel))
        if key in self.views:
            raise m.refused("a storage is described once", found=f"{key[:40]!r}, a view before")
        self.roots[key] = StorageRef(key, dtype, numel, location, is_untyped)
        return self.roots[key]

    def _view(self, m: Machine, root: StorageRef, said: Any) -> StorageRef:
        """The view ``(key, offset, numel)`` of a storage, as torch before 0.4 names them."""
        key = text(said[0]) if type(said) is tuple and len(said) == 3 else None
        if key is None or type(said[1]) is not int or type(said[2]) is not int:
            raise m.refused("a view is a key, an offset and a length", found=m.shown(said))
        _, offset, numel = said
        if offset < 0 or numel < 0 or offset + numel > root.numel:
            raise m.refused(
                "a view lies inside its storage",
                wanted=f"at most {root.numel:,} elements",
                found=m.shown(said),
            )
        ref = StorageRef(key, root.dtype, numel, root.location, root.is_untyped)
        found = self.views.setdefault(key, View(ref, root, offset))
        if key in self.roots or (found.ref, found.root, found.offset) != (ref, root, offset):
            raise m.refused("a storage is described once", found=m.shown(said))
        return found.ref

    def rebase(self, tree: Any) -> set[str]:
        """Make tensors of views tensors of the roots, so that what shares memory says so.

        Returns the keys of the views that the tree still holds, as storages of their own.
        """
        left = set()
        for node in nodes(tree) if self.views else ():
            if type(node) is StorageRef and node.key in self.views:
                left.add(node.key)
            elif type(node) is TensorRef and node.storage is not None:
                view = self.views.get(node.storage.key)
                if view is not None:
                    node.storage, node.offset = view.root, node.offset + view.offset
        return left
