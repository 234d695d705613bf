"""Several files as one checkpoint: their storages under keys that no two of them share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from holdfast.errors import RefusedError
from holdfast.pickles.limits import nodes
from holdfast.spec.index import Extent, Index, StorageRef, TensorRef
from holdfast.spec.record import Record


class Joined:
    """Takes up the indexes of the files in a folder, one after the other."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._byteorder: str | None = None
        self._extents: dict[str, Extent] = {}
        self._other: list[Extent] = []
        self._symbols: dict[str, None] = {}
        self._record: Record | None = None
        self._nbytes = 0
        self.notes: list[str] = []
        self.programs: list[str] = []
        self.metadata: dict[str, str] = {}

    def add(self, file: str, index: Index, *, is_joined: bool = False) -> Any:
        """Take up what ``file`` holds, and give back its tree, the storages renamed.

        ``is_joined`` says that they bear their files' names already.

        Raises:
            RefusedError: its bytes are in another order than those before it.
        """
        if self._byteorder not in (None, index.byteorder):
            raise RefusedError(
                "refused: the files of a checkpoint have one byte order",
                file=self._folder,
                member=file[:200],
                wanted=self._byteorder,
                found=index.byteorder,
                cure="Save them anew on one machine.",
            )
        self._byteorder = index.byteorder
        prefix = "" if is_joined else f"{file}/"
        if prefix:
            _rename(index.tree, prefix)
        for key, extent in index.extents.items():
            self._extents[prefix + key] = extent._replace(member=prefix + extent.member)
        self._other += [each._replace(member=prefix + each.member) for each in index.other]
        self._symbols.update(dict.fromkeys(index.symbols))
        self._record = self._record or index.record
        self._nbytes += index.file_nbytes
        self.notes += [f"{file}: {note}" for note in index.notes] if prefix else index.notes
        self.programs += [f"{file}: {name}" for name in index.programs]
        return index.tree

    def index(
        self, kind: str, tree: Any, *, nbytes: int = 0, other: Iterable[Extent] = ()
    ) -> Index:
        """The index of them all; ``nbytes`` and ``other`` are of files beside them."""
        return Index(
            file=self._folder,
            format=kind,
            tree=tree,
            extents=self._extents,
            record=self._record,
            byteorder=self._byteorder or "little",
            other=(*self._other, *other),
            file_nbytes=self._nbytes + nbytes,
            notes=tuple(self.notes),
            symbols=tuple(self._symbols),
            metadata=self.metadata,
            programs=tuple(self.programs),
        )


def _rename(tree: Any, prefix: str) -> None:
    """Put ``prefix`` before the key of every storage of a tree that was just read."""
    renamed: set[int] = set()
    for node in nodes(tree):
        parts = [node.storage] if isinstance(node, TensorRef) else [node]
        for ref in parts:
            if isinstance(ref, StorageRef) and id(ref) not in renamed:
                renamed.add(id(ref))
                # In place, as tuples and sets may hold it; nothing else knows this tree yet.
                object.__setattr__(ref, "key", prefix + ref.key)
