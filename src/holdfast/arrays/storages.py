"""Bytes of storages as NumPy memory: read by position, never mapped, the CRC checked first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from holdfast.io.checksum import crc32, crc32_of, read_checked
from holdfast.io.source import Source
from holdfast.report.damage import compare
from holdfast.spec.index import Extent, Index, StorageRef

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Storages:
    """The storages of one checkpoint; ``verify`` checks each CRC before the bytes are used."""

    def __init__(self, index: Index, source: Source, *, verify: bool = True) -> None:
        self.index, self._source, self._verify = index, source, verify
        self._checked: set[str] = set()

    def read(self, ref: StorageRef, start: int, stop: int) -> Bytes:
        """The bytes from ``start`` to ``stop`` of a storage, in memory of their own.

        Raises:
            DamagedError: the storage's bytes are not those that were saved.
            TruncatedError: the file ends before them.
        """
        extent = self.index.extents[ref.key]
        made = np.empty(stop - start, np.uint8)
        source, place = self._source.of(extent.file), extent.offset + start
        if self._must_check(ref, extent) and made.nbytes == extent.nbytes:
            # While reading, so that a file changed in between is noticed.
            compare(self.index, extent, read_checked(source, place, made.data))
            self._checked.add(ref.key)
            return made
        self.check(ref)
        source.read_into(place, made.data)
        return made

    def read_rows(self, ref: StorageRef, starts: Sequence[int], nbytes: int) -> Bytes:
        """``nbytes`` bytes from each of ``starts`` on, one run behind the other; as ``read``."""
        self.check(ref)
        extent = self.index.extents[ref.key]
        source, made = self._source.of(extent.file), np.empty(len(starts) * nbytes, np.uint8)
        view = made.data
        for position, start in enumerate(starts):
            place = position * nbytes
            source.read_into(extent.offset + start, view[place : place + nbytes])
        return made

    def check(self, ref: StorageRef) -> None:
        """Check a storage's CRC, once; raises DamagedError."""
        extent = self.index.extents[ref.key]
        if self._must_check(ref, extent):
            source = self._source.of(extent.file)
            compare(self.index, extent, crc32_of(source, extent.offset, extent.nbytes))
            self._checked.add(ref.key)

    def stream(self, ref: StorageRef, start: int, stop: int, *, chunk: int) -> Iterator[Bytes]:
        """The bytes from ``start`` to ``stop`` in pieces; of a whole storage, checked at the end.

        Raises:
            DamagedError: after the last piece, or before the first of a part of a storage.
        """
        extent = self.index.extents[ref.key]
        is_whole = stop - start == extent.nbytes
        checks_here = is_whole and self._verify and extent.expected_crc is not None
        if not checks_here:
            self.check(ref)
        source, crc = self._source.of(extent.file), 0
        for place in range(start, stop, chunk):
            piece = np.empty(min(chunk, stop - place), np.uint8)
            source.read_into(extent.offset + place, piece.data)
            crc = crc32(piece.data, crc) if checks_here else crc
            yield piece
        if checks_here:
            compare(self.index, extent, crc)

    def _must_check(self, ref: StorageRef, extent: Extent) -> bool:
        return (
            self._verify
            and extent.expected_crc is not None
            and extent.nbytes > 0
            and ref.key not in self._checked
        )
