"""The files of a folder, as bytes: slices that are whole torch files, and ``.metadata``.

A slice is what ``torch.save`` gives of one contiguous tensor. All of it but the elements and what
depends on their checksum is known from the element type and the shape, so that slices are planned
without data. Records: torch/distributed/checkpoint/metadata.py and filesystem.py of torch 2.13.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.formats.dcp.metadata import Box, Key, Metadata, Place, TensorEntry
from holdfast.formats.torch_zip import members, write
from holdfast.io.checksum import crc32
from holdfast.pickles import writer
from holdfast.spec.dtypes import DType
from holdfast.spec.index import DTypeRef, LayoutRef, Opaque, SizeRef, StorageRef, TensorRef
from holdfast.spec.strides import contiguous

_MODULE = "torch.distributed.checkpoint.metadata"
_RECORDS = frozenset(
    {
        *(
            f"{_MODULE}.{name}"
            for name in (
                *("Metadata", "MetadataIndex", "TensorProperties", "_MEM_FORMAT_ENCODING"),
                *("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata"),
            )
        ),
        "torch.distributed.checkpoint.filesystem._StorageInfo",
    }
)
#: Model, gradients' moments, layers of one size: few shapes in thousands of slices.
_MOST_SHAPES = 4096


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice that is planned: ``head``, then ``nbytes`` of elements, then a tail."""

    head: bytes
    nbytes: int
    _layout: write.Layout
    _crcs: Mapping[str, int]

    @property
    def whole_nbytes(self) -> int:
        """The bytes of all of it."""
        return self._layout.nbytes

    def tail(self, crc: int) -> bytes:
        """What follows the elements, whose CRC-32 is given."""
        data, *behind = self._layout.members[len(self._crcs) :]
        crcs = {**self._crcs, data.name: crc}
        pieces = [write.descriptor(data, crc)]
        for member, payload in zip(behind, _behind(crcs), strict=True):
            crcs[member.name] = crc32(payload)
            pieces.append(_member(member, payload))
        return b"".join((*pieces, write.directory(self._layout, crcs)))


def _behind(crcs: Mapping[str, int]) -> Iterator[bytes]:
    """The members behind the elements; the last is made of the CRCs of all others."""
    yield members.VERSION
    yield members.serialization_id(crcs)


def _member(member: write.Member, payload: bytes) -> bytes:
    return write.local_header(member) + payload + write.descriptor(member, crc32(payload))


@functools.lru_cache(_MOST_SHAPES)
def slice_of(dtype: DType, shape: tuple[int, ...]) -> Slice:
    """The slice of a contiguous tensor."""
    numel = math.prod(shape)
    storage = StorageRef("0", dtype, numel)
    pickle = writer.write(TensorRef(dtype, shape, contiguous(shape), storage))
    headers = members.headers(alignment=write.ALIGNMENT)
    nbytes = dtype.nbytes_of(numel)
    layout = write.layout(
        "archive", members.sizes(pickle, {0: nbytes}, headers=headers, record=None)
    )
    before = [pickle, *headers.values()]
    placed = list(zip(layout.members, before, strict=False))
    crcs = {member.name: crc32(payload) for member, payload in placed}
    head = b"".join(_member(member, payload) for member, payload in placed)
    head += write.local_header(layout.members[len(before)])
    return Slice(head, nbytes, layout, crcs)


def write_metadata(metadata: Metadata) -> bytes:
    """The bytes of ``.metadata``, as torch reads them; ``symbols`` say nothing here."""
    made = _Records()
    state = {
        "state_dict_metadata": {
            name: made.value if entry is None else made.tensor(entry)
            for name, entry in metadata.entries.items()
        },
        "planner_data": dict(metadata.paths),
        "storage_data": dict(made.places(metadata)),
        "storage_meta": None,
        "version": "1.0.0",
    }
    return writer.write(_new(_MODULE, "Metadata", state), records=_RECORDS)


def _new(module: str, name: str, state: Any) -> Opaque:
    return Opaque(module, name, "newobj", state=state, has_state=True)


class _Records:
    """torch's records, those that are equal made once."""

    def __init__(self) -> None:
        self.value = Opaque(_MODULE, "BytesStorageMetadata", "newobj")
        self._properties: dict[str, Opaque] = {}
        self._contiguous = Opaque(_MODULE, "_MEM_FORMAT_ENCODING", "reduce", (0,))

    def tensor(self, entry: TensorEntry) -> Opaque:
        state = {
            "properties": self._of(entry.dtype),
            "size": SizeRef(entry.shape),
            "chunks": [self._chunk(box) for box in entry.boxes],
        }
        return _new(_MODULE, "TensorStorageMetadata", state)

    def _of(self, dtype: DType) -> Opaque:
        if dtype.name not in self._properties:
            # dtype, layout, requires_grad, memory format, pinned
            state = (DTypeRef(dtype.name), LayoutRef("strided"), False, self._contiguous, False)
            self._properties[dtype.name] = _new(_MODULE, "TensorProperties", state)
        return self._properties[dtype.name]

    def _chunk(self, box: Box) -> Opaque:
        state = {"offsets": SizeRef(box.offsets), "sizes": SizeRef(box.sizes)}
        return _new(_MODULE, "ChunkStorageMetadata", state)

    def places(self, metadata: Metadata) -> Iterator[tuple[Opaque, Opaque]]:
        """Where each slice lies, by its ``MetadataIndex``."""
        numbers = _numbers(metadata)
        for (name, offsets), place in metadata.places.items():
            found = None if offsets is None else SizeRef(offsets)
            index = {"fqn": name, "index": numbers.get((name, offsets)), "offset": found}
            yield _new(_MODULE, "MetadataIndex", index), self._place(place)

    def _place(self, place: Place) -> Opaque:
        state = {"relative_path": place.file, "offset": place.offset, "length": place.nbytes}
        return _new("torch.distributed.checkpoint.filesystem", "_StorageInfo", state)


def _numbers(metadata: Metadata) -> dict[Key, int]:
    """Which piece of its tensor each is: with it torch need not look through all of them."""
    return {
        (name, box.offsets): number
        for name, entry in metadata.entries.items()
        if entry is not None
        for number, box in enumerate(entry.boxes)
    }
