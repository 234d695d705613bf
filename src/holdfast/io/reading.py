"""Many runs of bytes at once, by as many threads as help, and the CRC-32 of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from holdfast.io.checksum import crc32_combine, read_checked
from holdfast.io.source import Source
from holdfast.io.threads import each_of

#: Bytes that one thread takes at a time.
RANGE = 16 << 20
#: Not as many as there are cores: a disk is read faster by several that wait for it.
_THREADS = 4


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

    def read(number: int, start: int, nbytes: int) -> int:
        source, offset, memory = places[number]
        crc = read_checked(source, offset + start, memory[start : start + nbytes])
        if on_progress is not None:
            on_progress(nbytes)
        return crc

    return crcs_of([place.memory.nbytes for place in places], read)


def crcs_of(sizes: Sequence[int], crc_of: Callable[[int, int, int], int]) -> list[int]:
    """The CRC-32 of runs of bytes of these sizes; large ones are cut, so that all cores have work.

    ``crc_of`` gets the number of a run, and where in it to begin and how many bytes to take; it is
    called from several threads.
    """
    ranges = [
        (number, start, min(RANGE, nbytes - start))
        for number, nbytes in enumerate(sizes)
        for start in range(0, max(1, nbytes), RANGE)
    ]
    found = each_of(lambda each: crc_of(*each), ranges, 0 if sum(sizes) <= RANGE else _THREADS)
    crcs = [0] * len(sizes)
    for (number, _, nbytes), crc in zip(ranges, found, strict=True):
        crcs[number] = crc32_combine(crcs[number], crc, nbytes)
    return crcs
