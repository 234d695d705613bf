"""The header of a safetensors file: which tensors there are and where, every number checked.

Rules of https://github.com/huggingface/safetensors, and stricter: no key twice, nothing unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from holdfast.errors import RefusedError, TruncatedError
from holdfast.formats import strict_json
from holdfast.formats.safetensors import seal
from holdfast.formats.safetensors.write import LONGEST_HEADER, METADATA
from holdfast.io.source import Source
from holdfast.spec.dtypes import BY_SAFETENSORS, DType

#: Tensors in one file; real ones have a few thousand.
MOST_TENSORS = 500_000
#: Of each kind of bracket and of commas there are no more than so many for each tensor.
_MOST_SIGNS = {b"{": 1, b"[": 2, b",": 12}
_FIELDS = {"dtype", "shape", "data_offsets"}
_TOO_BIG = 1 << 63
_FOUR_BITS = BY_SAFETENSORS["F4"]


class Entry(NamedTuple):
    """One tensor: ``begin`` counts from the end of the header; the shape is that of the file."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """All tensors in the header's order, the text beside them, and where the data starts."""

    entries: list[Entry]
    metadata: Mapping[str, str]
    start: int


def read_header(source: Source) -> Header:
    """Read and check the header of a file; the tensors fill the file exactly.

    Raises:
        TruncatedError: the file ends before its last tensor does.
        RefusedError: a rule is broken.
        FormatError: the header is no JSON.
        DamagedError: the header has a checksum, and it is wrong.
    """
    check = _Check(source)
    values = check.values()
    metadata = check.metadata(values.pop(METADATA, {}))
    seal.check(check.data, metadata, file=source.name)
    start = source.size - check.nbytes_left
    entries = list(check.entries(values))
    check.fills_the_file(entries)
    return Header(entries, metadata, start)


class _Check:
    """The checks of one file, and the letters about it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._shapes: dict[tuple[int, ...], int] = {}
        self.nbytes_left = 0
        self.data = b""

    def values(self) -> dict[str, Any]:
        """The JSON object at the head of the file."""
        nbytes = int.from_bytes(self._source.read_at(0, 8), "little")
        if nbytes > LONGEST_HEADER:
            limit = f"at most {LONGEST_HEADER:,} bytes"
            raise self._refused("the header is not too long", limit, f"{nbytes:,}")
        self.data = self._source.read_at(0, 8 + nbytes)
        data = self.data[8:]
        self.nbytes_left = self._source.size - 8 - nbytes
        for sign, most in _MOST_SIGNS.items():  # before parsing makes objects of them
            if data.count(sign) > most * MOST_TENSORS:
                limit = f"at most {MOST_TENSORS:,} tensors"
                raise self._refused("a file has not too many tensors", limit, "more")
        if not data.startswith(b"{"):
            raise self._refused("the header is a JSON object", "{", ascii(data[:1])[1:])
        made: dict[str, Any] = strict_json.decode(
            data, what="the header of this safetensors file", file=self._source.name
        )
        return made

    def metadata(self, value: Any) -> Mapping[str, str]:
        """The text beside the tensors."""
        if type(value) is not dict or any(type(text) is not str for text in value.values()):
            raise self._refused("__metadata__ maps text to text", None, None)
        return value

    def entries(self, values: Mapping[str, Any]) -> Iterator[Entry]:
        """The tensors, each with as many bytes as its elements take."""
        for name, value in values.items():
            if type(value) is not dict or value.keys() != _FIELDS:
                rule = "a tensor has dtype, shape and data_offsets, and nothing else"
                raise self._refused(rule, None, _shown(value), name)
            begin, end = self._offsets(value["data_offsets"], name)
            dtype = self._dtype(value["dtype"], name)
            sizes, numel = self._sizes(value["shape"], name)
            # Two numbers of four bits are one element of torch's.
            nbits = numel * (4 if dtype is _FOUR_BITS else dtype.bits)
            if nbits != 8 * (end - begin):
                raise self._refused(
                    "a tensor has exactly the bytes of its elements",
                    f"{nbits / 8:,} bytes for {value['dtype']} {_shown(value['shape'])}",
                    f"{end - begin:,}",
                    name,
                )
            yield Entry(name, dtype, sizes, begin, end - begin)

    def _offsets(self, value: Any, name: str) -> tuple[int, int]:
        if type(value) is list and len(value) == 2:
            begin, end = value
            if type(begin) is int and type(end) is int and 0 <= begin <= end < _TOO_BIG:
                return begin, end
        rule = "data_offsets are where a tensor begins and where it ends"
        raise self._refused(rule, None, _shown(value), name)

    def _dtype(self, value: Any, name: str) -> DType:
        found = BY_SAFETENSORS.get(value) if type(value) is str else None
        if found is None:
            rule = "an element type is one of those of safetensors"
            raise self._refused(rule, None, _shown(value), name)
        return found

    def _sizes(self, value: Any, name: str) -> tuple[tuple[int, ...], int]:
        """The shape, and how many elements it has."""
        if type(value) is not list or not {*map(type, value)} <= {int}:
            raise self._refused("a shape is a list of sizes", None, _shown(value), name)
        sizes = tuple(value)
        numel = self._shapes.get(sizes)
        if numel is None:  # most tensors have a shape that others had before
            if min(sizes, default=0) < 0 or math.prod(size or 1 for size in sizes) >= _TOO_BIG:
                rule = "sizes are whole numbers, whose product is less than 2**63"
                raise self._refused(rule, None, _shown(value), name)
            numel = self._shapes[sizes] = math.prod(sizes)
        return sizes, numel

    def fills_the_file(self, entries: list[Entry]) -> None:
        """One tensor begins where the one before it ends; the last one ends with the file."""
        end = 0
        for entry in sorted(entries, key=itemgetter(3, 4)):
            if entry.begin != end:
                raise self._refused(
                    "tensors lie one behind the other, without holes or overlaps",
                    f"byte {end:,}",
                    f"{entry.begin:,}",
                    entry.name,
                )
            end += entry.nbytes
        if end > self.nbytes_left:
            raise TruncatedError(
                "this file ends too early",
                file=self._source.name,
                wanted=f"{self._source.size - self.nbytes_left + end:,} bytes",
                found=f"{self._source.size:,}",
                cure="It was not written or copied to its end: get it again, or use an earlier "
                "one.",
            )
        if end < self.nbytes_left:
            rule = "the last tensor ends where the file does"
            raise self._refused(rule, None, f"{self.nbytes_left - end:,} bytes more")

    def _refused(
        self, rule: str, wanted: str | None, found: str | None, tensor: str | None = None
    ) -> RefusedError:
        return RefusedError(
            f"refused: {rule}",
            file=self._source.name,
            tensor=None if tensor is None else tensor[:200],
            wanted=wanted,
            found=found,
            cure="The file is broken, or made so that two programs see two different files in it.",
        )


def _shown(value: Any) -> str:
    """A value for a letter; of what is large or deep, its beginning."""
    if isinstance(value, dict):
        return "keys " + ", ".join(ascii(key)[:40] for key in list(value)[:5])
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value[:5] if type(item) is not list) + "]"
    return ascii(value)[:100]
