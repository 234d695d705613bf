"""Where the bytes of a file end by its own account: what is behind them is looked through as well.

A reader that is handed an open file stops there, and whoever reads on finds what follows.
"""

from __future__ import annotations

import re

from holdfast.errors import FormatError
from holdfast.formats import strict_json, torch_legacy
from holdfast.formats.safetensors.write import LONGEST_HEADER, METADATA
from holdfast.io.source import Source

NUMPY = b"\x93NUMPY"
#: Bytes before the header's text, by the major version of the format (numpy/lib/format.py).
_BEFORE_TEXT = {1: 10, 2: 12, 3: 12}
#: NumPy itself reads no longer headers unless it is told to.
_LONGEST_TEXT = 1 << 20
#: The letter of objects, in a simple type or in a field of a record.
_OBJECTS = re.compile(rb"['\"][|<>=]?O[48]?['\"]")
_END, _END_SIZE = b"PK\x05\x06", 22


def end_of_legacy(source: Source) -> int:
    """Where the last storage of a legacy torch file ends.

    Raises:
        FormatError: it is not laid out as torch does.
    """
    index = torch_legacy.read_index(source)
    extents = (*index.extents.values(), *index.other)
    return max(extent.offset + extent.nbytes for extent in extents) - source.origin


def is_safetensors(source: Source, head: bytes) -> bool:
    """Whether a file begins with the size of a JSON object that it has room for."""
    size = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and size <= min(LONGEST_HEADER, source.size - 8)


def end_of_safetensors(source: Source) -> int:
    """Where the last tensor of a safetensors file ends by its header; nothing else is checked.

    Raises:
        FormatError: the header is no JSON.
    """
    size = int.from_bytes(source.read_at(0, 8), "little")
    header = strict_json.decode(
        source.read_at(8, size), what="the header of this safetensors file", file=source.name
    )
    entries = [entry for name, entry in header.items() if name != METADATA]
    offsets = [entry.get("data_offsets") for entry in entries if type(entry) is dict]
    ends = [pair[1] for pair in offsets if type(pair) is list and len(pair) == 2]
    return 8 + size + max([0, *(end for end in ends if type(end) is int)])


def end_of_zip(source: Source) -> int:
    """Where the last end record of an archive ends, its comment left aside; 0 without one."""
    nbytes = min(source.size, _END_SIZE + 0xFFFF)
    at = source.read_at(source.size - nbytes, nbytes).rfind(_END)
    return 0 if at < 0 else min(source.size, source.size - nbytes + at + _END_SIZE)


def pickle_of_array(source: Source, head: bytes) -> tuple[int, bool] | None:
    """Where the data of a ``.npy`` starts, and whether that is a pickle: an array of objects.

    Raises:
        FormatError: its header is none.
    """
    if not head.startswith(NUMPY):
        return None
    before = _BEFORE_TEXT.get(head[6]) if len(head) > 6 else None
    if before is None or len(head) < before:
        raise FormatError("the header of this NumPy array is none", file=source.name)
    nbytes = int.from_bytes(head[8:before], "little")
    if before + nbytes > source.size or nbytes > _LONGEST_TEXT:
        raise FormatError("the header of this NumPy array is too long", file=source.name)
    is_pickle = _OBJECTS.search(source.read_at(before, nbytes)) is not None
    return before + nbytes, is_pickle
