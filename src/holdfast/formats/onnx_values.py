"""Numbers that an ONNX tensor holds as protobuf fields, one by one, as plain memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.formats.protobuf import BYTES, VARINT, Field, Walker

#: Bytes that one walk unpacks from varints; large tensors have raw bytes.
_MOST_UNPACKED = 256 << 20
_PIECE = 1 << 20


class Values:
    """Collects unpacked numbers in one memory; ``add`` says where they went."""

    def __init__(self, walker: Walker) -> None:
        self._walker = walker
        self.data = bytearray()

    def add(self, fields: list[Field], dtype: str, tensor: str) -> tuple[int, int]:
        """Unpack VARINT fields, packed or not, as elements of ``dtype``; their offset and bytes.

        Raises:
            RefusedError: they are no varints, or too many.
        """
        start = len(self.data)
        singles: list[int] = []
        for field in fields:
            if field.wire == VARINT:
                singles.append(field.value)
                continue
            self._flush(singles, dtype, tensor)
            if field.wire != BYTES:
                raise self._walker.refused("numbers of an integer field are varints", tensor=tensor)
            for offset in self._cuts(field, tensor):
                self._put(offset, dtype, tensor)
        self._flush(singles, dtype, tensor)
        return start, len(self.data) - start

    def add_raw(self, fields: list[Field], width: int, tensor: str) -> tuple[int, int]:
        """Put fixed-width numbers together that lie in several fields; their offset and bytes.

        Raises:
            RefusedError: they are of another width, or too many.
        """
        start = len(self.data)
        for field in fields:
            if field.wire == VARINT or field.nbytes % width:
                raise self._walker.refused("floats have four bytes, doubles eight", tensor=tensor)
            self._keep(self._walker.read(field), tensor)
        return start, len(self.data) - start

    def _cuts(self, field: Field, tensor: str) -> Any:
        """The packed numbers, as arrays of uint64 of about a piece each."""
        at = field.start
        while at < field.end:
            data = self._walker.source.read_at(at, min(_PIECE, field.end - at))
            last = np.frombuffer(data, np.uint8) < 0x80
            ends = np.flatnonzero(last)
            if not ends.size:
                raise self._too_long(tensor)
            nbytes = int(ends[-1]) + 1
            if at + len(data) == field.end and nbytes != len(data):
                raise self._too_long(tensor)
            yield self._unpacked(np.frombuffer(data, np.uint8)[:nbytes], ends, tensor)
            at += nbytes

    def _unpacked(self, data: Any, ends: Any, tensor: str) -> Any:
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1
        if lengths.max() > 10:
            raise self._too_long(tensor)
        shifts = 7 * (np.arange(data.size) - np.repeat(starts, lengths)).astype(np.uint64)
        parts = (data & 0x7F).astype(np.uint64) << shifts
        return np.bitwise_or.reduceat(parts, starts)

    def _flush(self, singles: list[int], dtype: str, tensor: str) -> None:
        if singles:
            self._put(np.array(singles, np.uint64), dtype, tensor)
            singles.clear()

    def _put(self, numbers: Any, dtype: str, tensor: str) -> None:
        # Negative numbers are those of 64 bits; a narrower type takes the low bits, as ONNX does.
        self._keep(numbers.astype(np.dtype(f"<{dtype}")).tobytes(), tensor)

    def _keep(self, made: bytes, tensor: str) -> None:
        if len(self.data) + len(made) > _MOST_UNPACKED:
            raise self._walker.refused(
                "large tensors are raw bytes, not numbers one by one",
                tensor=tensor,
                wanted=f"at most {_MOST_UNPACKED:,} bytes",
            )
        self.data += made

    def _too_long(self, tensor: str) -> Exception:
        rule = "a number in a model has at most ten bytes and ends with its message"
        return self._walker.refused(rule, tensor=tensor)
