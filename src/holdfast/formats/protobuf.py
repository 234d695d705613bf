"""Walk protobuf messages by position: what is long is passed over, not read.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from holdfast.errors import RefusedError
from holdfast.io.source import Source

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_NBYTES = {FIXED64: 8, FIXED32: 4}
#: Fields that one walk may meet; a graph of 100,000 nodes has about a million.
MOST_FIELDS = 3_000_000
_BLOCK = 1 << 16


class Field(NamedTuple):
    """One field of a message: its number, its kind, and where its value lies.

    ``value`` is the number of a VARINT, and 0 for others.
    """

    number: int
    wire: int
    start: int
    nbytes: int
    value: int = 0

    @property
    def end(self) -> int:
        """The offset just behind it."""
        return self.start + self.nbytes


class Walker:
    """Walks the messages of one file; offsets are those of the source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._block, self._block_start = b"", 0
        self._fields_left = MOST_FIELDS

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message that lies there, in order.

        Raises:
            RefusedError: it is no message, or there are too many fields.
        """
        at = start
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                limit = f"at most {MOST_FIELDS:,} fields"
                raise self.refused("a model has not too many parts", wanted=limit)
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wire == VARINT and number:
                value, after = self._varint(at, end)
                yield Field(number, wire, at, after - at, value)
            elif wire == BYTES and number:
                nbytes, at = self._varint(at, end)
                after = at + nbytes
                self._check_end(after, end)
                yield Field(number, wire, at, nbytes)
            elif wire in _NBYTES and number:
                after = at + _NBYTES[wire]
                self._check_end(after, end)
                yield Field(number, wire, at, _NBYTES[wire])
            else:
                raise self.refused(
                    "a model is made of protobuf fields",
                    found=f"field {number} of kind {wire} at byte {at:,}",
                )
            at = after

    def read(self, field: Field) -> bytes:
        """The bytes of a field; of a long one those are in the file, so memory is bounded by it."""
        return self.source.read_at(field.start, field.nbytes)

    def text(self, field: Field, *, most: int = 1 << 16) -> str:
        """The text of a field, or as much of it as ``most`` bytes hold."""
        return self.source.read_at(field.start, min(field.nbytes, most)).decode("utf-8", "replace")

    def varints(self, start: int, end: int) -> Iterator[int]:
        """Numbers one behind the other, as in a packed field."""
        at = start
        while at < end:
            value, at = self._varint(at, end)
            yield value

    def refused(
        self, rule: str, *, tensor: str | None = None, wanted: object = None, found: object = None
    ) -> RefusedError:
        """The error for a rule that is broken."""
        return RefusedError(
            f"refused: {rule}",
            file=self.source.name,
            tensor=None if tensor is None else tensor[:200],
            wanted=wanted,
            found=found,
            cure="The file is broken or was cut off: get it again, or use an earlier one.",
        )

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        place = at - self._block_start
        if at < end and 0 <= place < len(self._block) and self._block[place] < 0x80:
            return self._block[place], at + 1  # as most are: one byte
        value = shift = 0
        while at < end and shift < 70:
            byte = self._byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        rule = "a number in a model has at most ten bytes and ends with its message"
        raise self.refused(rule, found=f"byte {at:,}")

    def _byte(self, at: int) -> int:
        place = at - self._block_start
        if not 0 <= place < len(self._block):
            self._block = self.source.read_at(at, min(_BLOCK, self.source.size - at))
            self._block_start, place = at, 0
        return self._block[place]

    def _check_end(self, after: int, end: int) -> None:
        if after > end:
            raise self.refused(
                "a field of a model ends with its message",
                wanted=f"at most byte {end:,}",
                found=f"{after:,}",
            )
