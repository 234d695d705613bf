"""What is around the elements of a slice that is ours: read in a row, and compared."""

from __future__ import annotations

from holdfast.errors import DamagedError
from holdfast.formats.dcp.write import Slice
from holdfast.io.source import Source

#: A torch file of one small tensor has eight headers in as many places.
SMALL = 4096


class HeadersError(DamagedError):
    """A slice in a folder that is shared is not as this program writes it: each has to look."""


def not_as_written(file: str, offset: int, nbytes: int) -> HeadersError:
    """The letter about a slice that others take for ours, and that is not."""
    return HeadersError(
        "a piece of this checkpoint is not what was written",
        file=file,
        found=f"other headers in bytes {offset:,} to {offset + nbytes:,}",
        cure="Use an earlier checkpoint: holdfast list shows them.",
    )


def crc_around(source: Ahead | Source, offset: int, planned: Slice) -> int | None:
    """The CRC-32 of a slice's elements, where the bytes around them are as planned; else None."""
    behind = offset + len(planned.head) + planned.nbytes
    head = source.read_at(offset, len(planned.head))
    return planned.crc_in(head, source.read_at(behind, offset + planned.whole_nbytes - behind))


class Ahead:
    """A source that is read front to back, a little more than is asked for each time.

    Behind the tail of a slice is the head of the next: one read finds both.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.origin, self.nbytes = source.name, source.origin, source.size
        self._source = source
        self._at, self._data = 0, b""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """As ``Source.read_at``."""
        at = offset - self._at
        if at < 0 or at + nbytes > len(self._data):
            more = min(nbytes + SMALL, self.nbytes - offset)
            self._at, self._data, at = offset, self._source.read_at(offset, max(nbytes, more)), 0
        return self._data[at : at + nbytes]
