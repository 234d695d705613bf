"""Persistent ids of a torch zip's pickle: which storages it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.formats.persistent_ids import element_type, text
from holdfast.formats.zip_archive import Member
from holdfast.pickles.machine import Machine
from holdfast.spec.dtypes import DType
from holdfast.spec.index import Opaque, StorageRef


class Storages:
    """The storages named so far; each has exactly the bytes of its member.

    ``prefix`` begins their keys, so that a checkpoint with several pickles has no key twice.
    """

    def __init__(
        self, members: Mapping[str, Member], root: str, folder: str = "data", prefix: str = ""
    ) -> None:
        self._members = members
        self._folder, self._home = folder, f"{root}/{folder}/"
        self._prefix = prefix
        self._types: dict[Any, DType | None] = {}
        self.named: dict[str, StorageRef] = {}

    def member_of(self, key: str) -> str:
        """The full name of the member that holds the storage of a key, its prefix included."""
        return self._home + key[len(self._prefix) :]

    def __call__(self, m: Machine, pid: Any) -> StorageRef:
        """The storage of a persistent id ``("storage", class, key, location, numel)``.

        Raises:
            RefusedError: it is no such id, or does not fit the member that holds its bytes.
        """
        if type(pid) is not tuple or len(pid) != 5:
            raise m.refused("a persistent id names a storage", found=m.shown(pid))
        word, cls, key, location, numel = pid
        if type(key) is not str or type(location) is not str or word != "storage":
            word, key, location = text(word), text(key), text(location)
        dtype = self._type_of(cls)
        if word != "storage" or key is None or location is None or dtype is None:
            raise m.refused("a persistent id names a storage", found=m.shown(pid))
        key = self._prefix + key
        found = self.named.get(key)
        if found is None:
            found = self._new(m, key, dtype, numel, location, "Untyped" in cls.name)
        elif (found.dtype, found.numel) != (dtype, numel):
            raise m.refused("a storage is described once", found=m.shown(pid))
        return found

    def _type_of(self, cls: Any) -> DType | None:
        """The element type of a storage class, which is one object for all storages of it."""
        found = self._types.get(cls) if type(cls) is Opaque else None
        if found is None and type(cls) is Opaque:
            found = self._types[cls] = element_type(cls)
        return found

    def _new(
        self, m: Machine, key: str, dtype: DType, numel: Any, location: str, is_untyped: bool
    ) -> StorageRef:
        if type(numel) is not int or not 0 <= numel < 1 << 63:
            raise m.refused("a storage has a whole number of elements", found=m.shown(numel))
        member = self._members.get(self.member_of(key))
        if member is None:
            found = f"none for {self._shown(key)[:40]}"
            raise m.refused("every storage is in the archive", found=found)
        if not member.is_stored:
            raise m.refused("storages are not compressed", found=f"{self._shown(key)} is")
        nbytes = dtype.nbytes_of(numel)
        if nbytes != member.nbytes:
            raise m.refused(
                "a storage has exactly the bytes of its member",
                wanted=f"{numel:,} elements of {dtype.torch_name}, {nbytes:,} bytes",
                found=f"{member.nbytes:,} in {self._shown(key)}",
            )
        self.named[key] = ref = StorageRef(key, dtype, numel, location, is_untyped)
        return ref

    def _shown(self, key: str) -> str:
        return f"{self._folder}/{key[len(self._prefix) :]}"
