"""The slices of a folder's files, as bytes: each a whole torch file of one tensor.

A slice is what ``torch.save`` gives of one contiguous tensor. All of it but the elements and what
depends on their checksum is known from the element type and the shape, so that slices are planned
without data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdfast.formats.torch_zip import members, write
from holdfast.io.checksum import crc32
from holdfast.pickles import writer
from holdfast.spec.dtypes import DType
from holdfast.spec.index import StorageRef, TensorRef
from holdfast.spec.strides import contiguous

#: Model, gradients' moments, layers of one size: few shapes in thousands of slices.
_MOST_SHAPES = 4096


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice that is planned: ``head``, then ``nbytes`` of elements, then a tail.

    ``whole_nbytes`` are the bytes of all of it.
    """

    head: bytes
    nbytes: int
    whole_nbytes: int
    _layout: write.Layout
    _crcs: Mapping[str, int]

    def crc_in(self, head: bytes, tail: bytes) -> int | None:
        """The CRC-32 of the elements, where these are the bytes around them; else None."""
        if head != self.head:
            return None
        crc = int.from_bytes(tail[4:8], "little") if self.nbytes else 0  # in the descriptor
        return crc if tail == self.tail(crc) else None

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
    return Slice(head, nbytes, layout.nbytes, layout, crcs)
