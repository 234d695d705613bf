"""The file ``.metadata`` of a folder: a pickle of records, read as data and checked.

Its classes are those of torch/distributed/checkpoint/metadata.py and filesystem.py; torch itself
reads it as a raw pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.errors import FormatError, RefusedError
from holdfast.formats.dcp.layout import (
    MOST_AXES,
    MOST_ENTRIES,
    MOST_SLICES,
    NAME,
    Box,
    Key,
    Metadata,
    Place,
    TensorEntry,
)
from holdfast.formats.dcp.recognised import recognised
from holdfast.formats.zip_archive import LARGEST_PICKLE
from holdfast.io.source import Folder
from holdfast.pickles.keys import Hashes
from holdfast.pickles.machine import Machine
from holdfast.pickles.reader import Pickled, read
from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.spec.index import DTypeRef, Opaque

#: A slice takes three records, of ten objects, in 80 bytes at least.
_BYTES_PER_OBJECT = 8

_CHECKPOINT = ("torch.distributed.checkpoint", "torch.distributed._shard.checkpoint")
#: The records of these pickles, which are read as such and are no symbols to warn of.
_RECORDS = frozenset(
    {
        *(
            f"{package}.metadata.{name}"
            for package in _CHECKPOINT
            for name in (
                *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
                *("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata"),
                "_MEM_FORMAT_ENCODING",
            )
        ),
        *(f"{package}.filesystem._StorageInfo" for package in _CHECKPOINT),
        "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
        "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
        *(
            f"{module}.{kind}Path"
            for module in ("pathlib", "pathlib._local")
            for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
        ),
    }
)


def read_metadata(folder: Folder, *, encoding: str = "utf-8") -> Metadata:
    """Read ``.metadata``; nothing in it is run, and no path in it is opened.

    Raises:
        FormatError: it is no whole pickle, or not one of these records.
        RefusedError: a rule for hostile files is broken.
    """
    source = folder.open(NAME)
    if source.size > LARGEST_PICKLE:
        raise RefusedError(
            "refused: pickles are small",
            file=folder.name,
            member=NAME,
            wanted=f"at most {LARGEST_PICKLE:,} bytes",
            found=f"{source.size:,}",
        )
    data = source.read_at(0, source.size)
    return recognised(data) or unpickled(data, file=folder.name, encoding=encoding)


def unpickled(data: bytes, *, file: str, encoding: str = "utf-8") -> Metadata:
    """What a description by anyone says, from the opcodes of its pickle.

    Raises:
        FormatError: it is no whole pickle, or not one of these records.
        RefusedError: a rule for hostile files is broken.
    """
    pickled = read(
        data,
        persistent=_no_ids,
        encoding=encoding,
        file=file,
        member=NAME,
        bytes_per_object=_BYTES_PER_OBJECT,
    )
    return _Reader(file).metadata(pickled)


def _no_ids(m: Machine, pid: Any) -> Any:
    raise m.refused("the description of a folder names no storages", found=m.shown(pid))


class _Reader:
    """Turns the records of the pickle into ours; every number is checked."""

    def __init__(self, file: str) -> None:
        self._file = file

    def metadata(self, pickled: Pickled) -> Metadata:
        state = self._state(pickled.tree, "Metadata")
        entries = self._dict(state.get("state_dict_metadata"))
        places = self._dict(state.get("storage_data"))
        if len(entries) > MOST_ENTRIES or len(places) > MOST_SLICES:
            raise self._refused(
                f"a checkpoint has at most {MOST_ENTRIES:,} entries in {MOST_SLICES:,} pieces"
            )
        if not all(type(name) is str for name in entries):
            raise self._refused("tensors and values have names")
        return Metadata(
            {name: self._entry(name, entry) for name, entry in entries.items()},
            self._places(places),
            self._paths(state.get("planner_data"), entries),
            tuple(name for name in pickled.symbols if name not in _RECORDS),
        )

    def _entry(self, name: str, entry: Any) -> TensorEntry | None:
        if _is(entry, "BytesStorageMetadata"):
            return None
        state = self._state(entry, "TensorStorageMetadata", name)
        shape = self._numbers(state.get("size"), name)
        chunks = state.get("chunks")
        if not isinstance(chunks, list):
            raise self._refused("a tensor has a list of pieces", name, chunks)
        boxes = tuple(self._box(chunk, name, len(shape)) for chunk in chunks)
        return TensorEntry(self._dtype(state.get("properties"), name), shape, boxes)

    def _dtype(self, properties: Any, name: str) -> DType:
        state = properties.state if _is(properties, "TensorProperties") else None
        found = state[0] if isinstance(state, tuple) and len(state) >= 5 else None
        if isinstance(state, dict):
            found = state.get("dtype")
        if type(found) is not DTypeRef:
            raise self._refused("a tensor has an element type", name, properties)
        return BY_NAME[found.name]

    def _box(self, chunk: Any, name: str, axes: int) -> Box:
        state = self._state(chunk, "ChunkStorageMetadata", name)
        offsets, sizes = (self._numbers(state.get(key), name) for key in ("offsets", "sizes"))
        if len(offsets) != axes or len(sizes) != axes:
            raise self._refused("a piece has the axes of its tensor", name, offsets)
        return Box(offsets, sizes)

    def _places(self, pairs: Mapping[Any, Any]) -> dict[Key, Place]:
        places: dict[Key, Place] = {}
        hashes = Hashes()
        for index, info in pairs.items():
            state = self._state(index, "MetadataIndex")
            name, offset = state.get("fqn"), state.get("offset")
            if type(name) is not str:
                raise self._refused("a slice belongs to a name", found=name)
            key = (name, None if offset is None else self._numbers(offset, name))
            if key[1] is not None and hashes.are_suspicious(key[1]):
                raise self._refused("keys do not collide by the thousand", name)
            if key in places:
                raise self._refused("a piece is saved once", name)
            places[key] = self._place(info, name)
        return places

    def _place(self, info: Any, name: str) -> Place:
        state = self._state(info, "_StorageInfo", name)
        file: Any = state.get("relative_path")
        offset: Any = state.get("offset")
        nbytes: Any = state.get("length")
        if type(file) is not str or not _is_size(offset) or not _is_size(nbytes):
            raise self._refused("a slice has a file, an offset and a length", name, file)
        if state.get("transform_descriptors"):
            raise FormatError(
                "this checkpoint was written through extensions, and its slices are transformed",
                file=self._file,
                member=file[:200],
                tensor=name[:200],
                found=Machine.shown(state["transform_descriptors"]),
                cure="Save it without them: FileSystemWriter(path), no _extensions.",
            )
        return Place(file, offset, nbytes)

    def _paths(self, data: Any, entries: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
        """The paths that the planner kept; one of another kind keeps something else, or nothing."""
        return {
            name: path
            for name, path in (data.items() if isinstance(data, dict) else ())
            if name in entries
            and isinstance(path, tuple)
            and path
            and all(type(step) in (str, int) for step in path)
        }

    def _state(self, node: Any, record: str, name: str | None = None) -> Mapping[str, Any]:
        if not _is(node, record) or not isinstance(node.state, dict):
            raise self._refused("the description of a folder is made of torch's records",
                                name, node, wanted=record)  # fmt: skip
        return node.state

    def _dict(self, value: Any) -> Mapping[Any, Any]:
        if not isinstance(value, dict):
            raise self._refused("a folder has lists of tensors and of slices", found=value)
        return value

    def _numbers(self, value: Any, name: str) -> tuple[int, ...]:
        if not isinstance(value, tuple | list) or len(value) > MOST_AXES:
            raise self._refused("sizes and offsets are short tuples", name, value)
        if not all(_is_size(number) for number in value):
            raise self._refused("sizes and offsets are whole numbers from 0 on", name, value)
        return tuple(value)

    def _refused(
        self, rule: str, name: str | None = None, found: Any = None, *, wanted: str | None = None
    ) -> RefusedError:
        return RefusedError(
            f"refused: {rule}",
            file=self._file,
            member=NAME,
            tensor=None if name is None else name[:200],
            wanted=wanted,
            found=None if found is None else Machine.shown(found),
            cure="The folder is broken, or made to do harm: do not load it with anything else.",
        )


def _is(node: Any, record: str) -> bool:
    return (
        type(node) is Opaque
        and node.how == "newobj"
        and node.name == record
        and node.symbol in _RECORDS
    )


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
