"""The slices of a folder's files: each a whole torch file, a pickle, or names in safetensors."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from holdfast.errors import FormatError, HoldfastError, NoCheckpointError, RefusedError
from holdfast.formats import safetensors
from holdfast.formats.dcp.headers import SMALL, Ahead, crc_around, not_as_written
from holdfast.formats.dcp.layout import Key, Metadata, Place
from holdfast.formats.dcp.write import Slice, slice_of
from holdfast.formats.sniff import LONGEST_JSON
from holdfast.formats.torch_zip import read as torch_zip
from holdfast.formats.zip_archive import LARGEST_PICKLE
from holdfast.io.source import Folder, Memory, Source
from holdfast.pickles.machine import Machine
from holdfast.pickles.reader import read
from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.spec.index import Extent, Index, StorageRef, TensorRef
from holdfast.spec.strides import contiguous

_Item = tuple[Key, Place]
_Shape = tuple[DType, tuple[int, ...]]
_RANK = re.compile(r"__([0-9]{1,9})_[0-9]+\.distcp\Z")


@dataclass(slots=True)
class Slices:
    """What all slices hold, by their keys, and where the bytes lie."""

    trees: dict[Key, Any] = field(default_factory=dict)
    extents: dict[str, Extent] = field(default_factory=dict)
    other: list[Extent] = field(default_factory=list)
    symbols: dict[str, None] = field(default_factory=dict)
    byteorders: set[str] = field(default_factory=set)
    is_shared: bool = False
    nbytes: int = 0


def read_slices(
    folder: Folder, metadata: Metadata, *, encoding: str, share: tuple[int, int] = (0, 1)
) -> Slices:
    """Read the headers of every slice, file by file, in the order of their bytes.

    With a ``share`` (number, count) those of tensors are compared in that part of the files alone,
    and taken in the others for what this program writes of such tensors: of so many processes each
    takes one part, and what all of them find good is. It is for folders that are ours.

    Raises:
        HeadersError: a slice in a shared folder is not what this program writes.
        FormatError: a file is missing, or a slice is none of the kinds.
        TruncatedError: a slice goes beyond the end of its file.
        RefusedError: slices overlap, lead out of the folder, or break a rule of their format.
    """
    reader = _Reader(encoding, _shapes(metadata))
    places = metadata.places.items()
    ordered = sorted(places, key=lambda item: (item[1].file, item[1].offset))
    reader.is_shared = share[1] > 1 and _begins_with_ours(folder, reader, ordered)
    for at, (file, items) in enumerate(groupby(ordered, key=lambda item: item[1].file)):
        source = _opened(folder, file)
        reader.found.nbytes += source.size
        reader.compares = not reader.is_shared or _number_of(file, at) % share[1] == share[0]
        reader.file(source, items)
    reader.found.is_shared = reader.is_shared
    return reader.found


def _number_of(file: str, at: int) -> int:
    """The process that wrote a file; it reads the same one where it can."""
    found = _RANK.match(file)
    return at if found is None else int(found[1])


def _begins_with_ours(folder: Folder, reader: _Reader, ordered: Iterable[_Item]) -> bool:
    """Whether the first slice of a tensor is as written here, in this order of bytes."""
    for key, place in ordered:
        if not reader.has_shape(key):
            continue
        source = Ahead(_opened(folder, place.file))
        planned = reader.planned(source, key, place)
        if planned is not None:
            return crc_around(source, place.offset, planned) is not None
    return False


def _opened(folder: Folder, file: str) -> Source:
    try:
        return folder.open(file)
    except NoCheckpointError as error:
        raise FormatError(
            "a file of this checkpoint is missing",
            file=folder.name,
            member=file[:200],
            cure="Copy the folder again, whole: what other files hold can be read without it.",
        ) from error


def _shapes(metadata: Metadata) -> dict[Key, _Shape]:
    """What each slice of a tensor should hold."""
    return {
        (name, box.offsets): (entry.dtype, box.sizes)
        for name, entry in metadata.entries.items()
        if entry is not None
        for box in entry.boxes
    }


class _Reader:
    def __init__(self, encoding: str, shapes: Mapping[Key, _Shape]) -> None:
        self._encoding, self._shapes = encoding, shapes
        self.found = Slices()
        self.is_shared, self.compares = False, True

    def file(self, source: Source, items: Iterable[_Item]) -> None:
        """The slices of one file, which follow each other."""
        end = 0
        ahead = Ahead(source)
        for offset, group in groupby(items, key=lambda item: item[1].offset):
            here = list(group)
            key, place = here[0]
            if offset < end:
                raise _refused(source, "slices do not overlap", here[0])
            with _Named(key):
                if self._own(ahead, key, place):
                    if len(here) > 1:
                        raise _refused(source, "slices do not overlap", here[1])
                    end = offset + place.nbytes
                    continue
                window = _window(source, place)
                head = window.read_at(0, min(9, place.nbytes))
                if not head.startswith(b"PK") and _is_safetensors(source, offset):
                    end = source.size  # torch writes one at the end of the file
                    self._safetensors(source, here)
                    continue
                if len(here) > 1:
                    raise _refused(source, "slices do not overlap", here[1])
                end = offset + place.nbytes
                self._slice(window, head, key, place)

    def _slice(self, window: Source, head: bytes, key: Key, place: Place) -> None:
        within = f"{place.file}@{place.offset}/"
        if head.startswith(b"PK"):
            index = torch_zip.read_index(window, encoding=self._encoding, within=within)
            self.found.trees[key] = index.tree
            self._collect(index)
        elif key[1] is None and head[:1] == b"\x80":
            self.found.trees[key] = self._pickle(window, within)
        else:
            raise FormatError(
                "a slice of this file is neither a torch file nor a pickle",
                file=window.name,
                member=f"bytes {place.offset:,} to {place.offset + place.nbytes:,}",
                found=repr(head),
                cure="The file is broken, or was written by another program.",
            )

    def has_shape(self, key: Key) -> bool:
        """Whether it is a slice of a tensor."""
        return key in self._shapes

    def planned(self, source: Ahead, key: Key, place: Place) -> Slice | None:
        """What we write of such a tensor, where it takes as many bytes."""
        found = self._shapes.get(key)
        if found is None or place.nbytes > source.nbytes - place.offset:
            return None
        if found[0].nbytes_of(math.prod(found[1])) > place.nbytes:
            return None
        planned = slice_of(*found)
        return planned if planned.whole_nbytes == place.nbytes else None

    def _own(self, source: Ahead, key: Key, place: Place) -> bool:
        """Whether a slice is byte for byte what we write of such a tensor: then all is known."""
        planned = self.planned(source, key, place)
        if planned is None:
            return False
        crc = crc_around(source, place.offset, planned) if self.compares else None
        if crc is None and self.compares:
            if self.is_shared:  # the others have not looked, and take it for ours
                raise not_as_written(source.name, place.offset, place.nbytes)
            return False
        (dtype, shape), within = self._shapes[key], f"{place.file}@{place.offset}/"
        storage, start = f"{within}0", place.offset + len(planned.head)
        ref = StorageRef(storage, dtype, math.prod(shape))
        if dtype.storage_class is None:
            ref = StorageRef(storage, BY_NAME["uint8"], planned.nbytes, is_untyped=True)
        self.found.trees[key] = TensorRef(dtype, shape, contiguous(shape), ref)
        self.found.extents[storage] = Extent(
            source.name, source.origin + start, planned.nbytes, crc, f"{within}archive/data/0"
        )
        self.found.byteorders.add(sys.byteorder)
        return True

    def _collect(self, index: Index) -> None:
        self.found.extents.update(index.extents)
        self.found.other += index.other
        self.found.symbols.update(dict.fromkeys(index.symbols))
        if index.extents:
            self.found.byteorders.add(index.byteorder)

    def _pickle(self, window: Source, within: str) -> Any:
        if window.size > LARGEST_PICKLE:
            raise RefusedError("refused: pickles are small", file=window.name, member=within)
        data = window.read_at(0, window.size)
        pickled = read(
            data, persistent=_no_ids, encoding=self._encoding, file=window.name, member=within
        )
        self.found.symbols.update(dict.fromkeys(pickled.symbols))
        self.found.other.append(Extent(window.name, window.origin, window.size, None, within))
        return pickled.tree

    def _safetensors(self, source: Source, items: list[_Item]) -> None:
        """Tensors by their names; the slice says where all of them begin, not where each does."""
        offset = items[0][1].offset
        index = safetensors.read_index(source.window(offset, source.size - offset))
        for (name, box), place in items:
            ref = index.tree.get(name)
            if box is None or not isinstance(ref, TensorRef) or ref.storage is None:
                raise _refused(source, "a tensor is in the file that should hold it",
                               ((name, box), place))  # fmt: skip
            within = f"{place.file}@{offset}/"
            extent = index.extents[ref.storage.key]
            ref.storage = replace(ref.storage, key=within + name)
            self.found.extents[within + name] = extent._replace(member=within + extent.member)
            self.found.trees[name, box] = ref
        self.found.byteorders.add(index.byteorder)


class _Named:
    """Puts the name of the tensor or value into letters about its slice."""

    def __init__(self, key: Key) -> None:
        self._name = key[0]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, HoldfastError) and error.tensor is None:
            error.tensor = self._name[:200]


def _window(source: Source, place: Place) -> Source:
    """A slice as a source; a small one is read at once, as its headers are most of it."""
    window = source.window(place.offset, place.nbytes)
    if place.nbytes > SMALL:
        return window
    memory = Memory(window.read_at(0, window.size), window.name)
    memory.origin = window.origin
    return memory


def _is_safetensors(source: Source, offset: int) -> bool:
    if offset + 9 > source.size:
        return False
    head = source.read_at(offset, 9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_JSON


def _refused(source: Source, rule: str, item: _Item) -> RefusedError:
    (name, _), place = item
    return RefusedError(
        f"refused: {rule}",
        file=source.name,
        tensor=name[:200],
        found=f"bytes {place.offset:,} to {place.offset + place.nbytes:,}",
        cure="The folder is broken, or made to do harm: do not load it with anything else.",
    )


def _no_ids(m: Machine, pid: Any) -> Any:
    raise m.refused("a plain pickle names no storages", found=m.shown(pid))
