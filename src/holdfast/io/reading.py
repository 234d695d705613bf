"""Many runs of bytes read at once, by as many threads as help, their CRCs taken on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from holdfast.io.checksum import crc32_combine, read_checked
from holdfast.io.source import Source

#: Bytes that one thread takes at a time.
_RANGE = 16 << 20
_MOST_THREADS = 4


class Place(NamedTuple):
    """Where bytes are, and the memory that is to have them."""

    source: Source
    offset: int
    memory: memoryview


def read_all(
    places: Sequence[Place], *, on_progress: Callable[[int], object] | None = None
) -> list[int]:
    """Fill the memory of every place, and return the CRC-32 of each.

    ``on_progress`` is called with the number of bytes read, from several threads.

    Raises:
        TruncatedError: a source ends early.
        FileError: the file system said no.
    """
    pieces = [piece for place in places for piece in _pieces(place)]

    def read(piece: Place) -> int:
        crc = read_checked(piece.source, piece.offset, piece.memory)
        if on_progress is not None:
            on_progress(piece.memory.nbytes)
        return crc

    if sum(place.memory.nbytes for place in places) <= _RANGE:
        found = iter([read(piece) for piece in pieces])
    else:
        with ThreadPoolExecutor(threads_that_help()) as threads:
            found = iter(list(threads.map(read, pieces)))
    return [_joined(place, found) for place in places]


def _pieces(place: Place) -> list[Place]:
    nbytes = place.memory.nbytes
    return [
        Place(place.source, place.offset + at, place.memory[at : at + _RANGE])
        for at in range(0, max(1, nbytes), _RANGE)
    ]


def _joined(place: Place, found: Iterator[int]) -> int:
    pieces = _pieces(place)
    crc = next(found)
    for piece in pieces[1:]:
        crc = crc32_combine(crc, next(found), piece.memory.nbytes)
    return crc


def threads_that_help() -> int:
    """As many as may run at once; more than a few do not make memory faster."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(_MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)
