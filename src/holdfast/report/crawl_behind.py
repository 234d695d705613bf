"""Where the bytes of a file end by its own account: what is behind them is looked through as well.

A reader that is handed an open file stops there, and whoever reads on finds what follows.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from holdfast.errors import FormatError
from holdfast.formats import strict_json, torch_legacy
from holdfast.formats.safetensors.write import LONGEST_HEADER, METADATA
from holdfast.io.source import Source

NUMPY = b"\x93NUMPY"
#: Bytes before the header's text, by the major version of the format (numpy/lib/format.py).
_BEFORE_TEXT = {1: 10, 2: 12, 3: 12}
#: NumPy itself reads no longer headers unless it is told to.
_LONGEST_TEXT = 10_000
#: A simple type as NumPy writes it: order, kind, bytes (of U: characters), and the unit of times.
_TYPE = re.compile(r"[<>=|]?([biufcSUVmM])(\d{1,9})(\[\w{1,30}\])?")
_WINDOW = 4 << 20


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


def array_in(source: Source, head: bytes) -> tuple[int, int | None] | None:
    """Where the data of a ``.npy`` starts and ends; no end where objects are in it: a pickle.

    A type that is not written as NumPy writes plain numbers and text counts as one of objects. It
    is never made: there are texts of which ``numpy.dtype`` dies, and the process with it.

    Raises:
        FormatError: it has no header.
    """
    if not head.startswith(NUMPY):
        return None
    before = _BEFORE_TEXT.get(head[6], 0) if len(head) > 6 else 0
    nbytes = int.from_bytes(head[8:before], "little")
    if len(head) < before or not before or before + nbytes > source.size or nbytes > _LONGEST_TEXT:
        raise FormatError("the header of this NumPy array is none", file=source.name)
    start = before + nbytes
    header = _literal(source.read_at(before, nbytes).decode("utf-8", "replace"))
    if type(header) is not dict:
        raise FormatError("the header of this NumPy array is none", file=source.name)
    nbytes_of_data = _times(_itemsize(header.get("descr")), _count(header.get("shape")))
    if nbytes_of_data is None and start == source.size:
        raise FormatError("this NumPy array ends before its objects", file=source.name)
    return start, None if nbytes_of_data is None else start + nbytes_of_data


def _literal(text: str) -> Any:
    """The value of a Python literal; None of what is none."""
    outside = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    if re.search(r"[-+~]\s*[-+~]", outside):  # chains of signs exhaust the parser
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _count(shape: Any) -> int | None:
    """The number of elements of a shape; None if it is none."""
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        return None
    return math.prod(shape)


def _itemsize(descr: Any) -> int | None:
    """The bytes of an element of a plain type; None if objects may be in it."""
    if type(descr) is str:
        found = _TYPE.fullmatch(descr)
        return None if found is None else int(found[2]) * (4 if found[1] == "U" else 1)
    if type(descr) is tuple and len(descr) == 2:
        return _times(_itemsize(descr[0]), _count(descr[1]))
    if type(descr) is not list or not all(type(f) is tuple and len(f) in (2, 3) for f in descr):
        return None
    sizes = [_times(_itemsize(field[1]), _count((*field, ())[2])) for field in descr]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _times(size: int | None, count: int | None) -> int | None:
    return None if size is None or count is None else size * count


def is_zeros(source: Source, start: int) -> bool:
    """Whether nothing but zeros follows: padding, and no opcode of any pickle."""
    for at in range(start, source.size, _WINDOW):
        if source.read_at(at, min(_WINDOW, source.size - at)).strip(b"\0"):
            return False
    return True
