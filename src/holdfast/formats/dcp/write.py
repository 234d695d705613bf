"""The slices of a folder's files, as bytes: each a whole torch file of one tensor.

A slice is what ``torch.save`` gives of one contiguous tensor. All of it but the elements and what
depends on their checksum is known from the element type and the shape, so that slices are planned
without data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
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
    _tail: _Tail

    def crc_in(self, head: bytes, tail: bytes) -> int | None:
        """The CRC-32 of the elements, where these are the bytes around them; else None."""
        if head != self.head:
            return None
        crc = int.from_bytes(tail[4:8], "little") if self.nbytes else 0  # in the descriptor
        return crc if tail == self._tail.of(crc) else None

    def tail(self, crc: int) -> bytes:
        """What follows the elements, whose CRC-32 is given."""
        return self._tail.of(crc)


@dataclass(frozen=True, slots=True)
class _Tail:
    """The bytes behind the elements, but for what depends on their CRC: that is put in.

    Those are the CRC itself at ``crc_at``, and the last member at ``id_at`` with its CRC at
    ``id_crc_at``: digits made of a text with the CRCs of all others, here what is around this one.
    """

    template: bytes
    crc_at: tuple[int, ...]
    id_at: int
    id_crc_at: tuple[int, ...]
    id_text: tuple[str, str]

    def of(self, crc: int) -> bytes:
        made = bytearray(self.template)
        digits = members.digits_of(f"{self.id_text[0]}{crc}{self.id_text[1]}")
        made[self.id_at : self.id_at + len(digits)] = digits
        for number, places in ((crc, self.crc_at), (crc32(digits), self.id_crc_at)):
            four = number.to_bytes(4, "little")
            for at in places:
                made[at : at + 4] = four
        return bytes(made)


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
    return Slice(head, nbytes, layout.nbytes, _tail_of(layout, crcs))


def _tail_of(layout: write.Layout, before: Mapping[str, int]) -> _Tail:
    """The tail of a slice: the members are those ``before`` the elements, these, and two more."""
    data, version, last = layout.members[len(before) :]
    crcs = {**before, data.name: 0, version.name: crc32(members.VERSION)}
    around = repr(sorted({**crcs, data.name: -1}.items())).partition("-1")
    digits = bytes(last.nbytes)
    start = data.data_offset + data.nbytes
    template = b"".join(
        (
            write.descriptor(data, 0),
            _member(version, members.VERSION),
            _member(last, digits),
            write.directory(layout, {**crcs, last.name: 0}),
        )
    )
    crc_at, id_crc_at = (
        tuple(at - start for at in write.crc_offsets(layout, number))
        for number in (len(before), len(before) + 2)
    )
    return _Tail(template, crc_at, last.data_offset - start, id_crc_at, (around[0], around[2]))


def _member(member: write.Member, payload: bytes) -> bytes:
    return write.local_header(member) + payload + write.descriptor(member, crc32(payload))
