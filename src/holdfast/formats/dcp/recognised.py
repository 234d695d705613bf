"""A ``.metadata`` that is, byte for byte, such as we write: read by its patterns, not by opcodes.

A folder of a thousand processes has millions of slices, in pickle opcodes that are the same for
each. Patterns find them in a tenth of the time that a pickle machine takes. They are those of
``description.py``, and nothing else is recognised: what differs anywhere is read as any pickle is,
and gives the same or is refused there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from holdfast.formats.dcp.description import KEYS, SYMBOLS, TUPLES, Description, memo_of, plain_text
from holdfast.formats.dcp.layout import (
    MOST_AXES,
    MOST_ENTRIES,
    MOST_SLICES,
    Box,
    Key,
    Metadata,
    Place,
    TensorEntry,
)
from holdfast.pickles.keys import Hashes
from holdfast.pickles.limits import DEEPEST
from holdfast.spec.dtypes import BY_NAME, DType

_EMPTY = Description({}, {}, {})
_ENDS = {opcode: count for count, opcode in TUPLES.items()}
#: Numbers of one, two, four bytes, and of more; no pattern can be taken for another.
_INT = rb"K.|M..|J.{4}|\x8a\x05.{5}|\x8a\x06.{6}|\x8a\x07.{7}|\x8a\x08.{8}"
_INTS = rb"(\(?(?:%b){0,%d}[)\x85\x86\x87t])" % (_INT, MOST_AXES)
_REF = rb"(h.|j.{4})"


def _pattern(*parts: bytes) -> re.Pattern[bytes]:
    return re.compile(b"".join(parts), re.DOTALL)


def _key(name: str) -> bytes:
    return re.escape(_EMPTY.ref(name))


_NUMBER = _pattern(_INT)
_SIZE = _key("Size") + _INTS + rb"\x85R"
_BOX = _pattern(re.escape(_EMPTY.chunk), _SIZE, _key("sizes"), _SIZE, b"ub")
_WHOLE = _pattern(_key("size"), _SIZE, _key("chunks"), rb"\]\(")
_AT = rb"%b(?:N|%b)%b(?:N|%b)ub" % (_key("index"), _INT, _key("offset"), _SIZE)
_NUMBERS = rb"%b(%b)%b(%b)ub" % (_key("offset"), _INT, _key("length"), _INT)
_FOUND, _INFO = re.escape(_EMPTY.found), re.escape(_EMPTY.info)
_PLACE = _pattern(_FOUND, _REF, _AT, _INFO, _REF, _NUMBERS)
_AT_ALONE, _NUMBERS_ALONE = _pattern(_AT), _pattern(_NUMBERS)
_ELEMENT = re.compile(rb"ctorch\n(\w+)\n")


class _OtherError(Exception):
    """It is not of our making."""


def recognised(data: bytes) -> Metadata | None:
    """What a description of ours says; None where it is another's, or damaged."""
    try:
        return _Reader(data).metadata()
    except (_OtherError, IndexError, KeyError, struct.error, UnicodeDecodeError):
        return None


class _Known(dict[Any, Any]):
    """Values by the bytes that mean them, each made once."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, raw: Any) -> Any:
        made = self[raw] = self._make(raw)
        return made


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        names = [*(name for _, name in SYMBOLS), *KEYS]
        #: What has a number, and texts and element types by the bytes that refer to them.
        self._count = len(names)
        self._texts = {_EMPTY.ref(key): key for key in KEYS}
        self._properties: dict[bytes, DType] = {}
        self._hashes = Hashes()
        self._ints = _Known(_int)
        self._sizes = _Known(self._size)
        self._boxes = _Known(lambda raws: Box(*map(self._sizes.__getitem__, raws)))

    def metadata(self) -> Metadata:
        self._expect(_EMPTY.head + _EMPTY.new("Metadata") + b"}(")
        self._expect(_EMPTY.ref("state_dict_metadata"))
        entries: dict[str, TensorEntry | None] = {}
        self._pairs(lambda name: entries.__setitem__(name, self._entry()), entries)
        paths: dict[str, tuple[str | int, ...]] = {}
        self._expect(_EMPTY.ref("planner_data"))
        self._pairs(lambda name: paths.__setitem__(name, self._path()), paths)
        self._expect(_EMPTY.ref("storage_data"))
        places = self._places()
        self._expect(_EMPTY.ref("storage_meta") + b"N" + _EMPTY.ref("version"))
        self._expect(plain_text("1.0.0") + b"ub.")
        if self._at != len(self._data) or len(entries) > MOST_ENTRIES or len(places) > MOST_SLICES:
            raise _OtherError
        kept = {name: path for name, path in paths.items() if path and name in entries}
        return Metadata(entries, places, kept, ())

    def _pairs(self, one: Callable[[str], None], found: dict[str, Any]) -> None:
        """Fill a dict that has texts for keys, each once."""
        self._expect(b"}")
        while self._has(b"("):
            while not self._has(b"u"):
                name = self._text()
                if name in found:
                    raise _OtherError
                one(name)

    def _entry(self) -> TensorEntry | None:
        if self._has(_EMPTY.new("BytesStorageMetadata")):
            return None
        self._expect(_EMPTY.new("TensorStorageMetadata") + b"}(" + _EMPTY.ref("properties"))
        dtype = self._described()
        shape = self._sizes[self._match(_WHOLE)[1]]
        match, boxes, known = _BOX.match, [], self._boxes
        while (found := match(self._data, self._at)) is not None:
            self._at = found.end()
            boxes.append(known[found.group(1, 2)])
        self._expect(b"eub")
        if len(set(map(id, boxes))) != len(boxes):  # one object for the same bytes
            raise _OtherError
        axes = {len(numbers) for box in boxes for numbers in box}
        if not axes <= {len(shape)}:
            raise _OtherError
        return TensorEntry(dtype, shape, tuple(boxes))

    def _described(self) -> DType:
        """The properties of a tensor: its element type, as the rest is always the same."""
        for width in (2, 5):
            known = self._properties.get(self._data[self._at : self._at + width])
            if known is not None:
                self._at += width
                return known
        self._expect(_EMPTY.new("TensorProperties") + b"(")
        found = self._match(_ELEMENT)
        dtype = BY_NAME.get(found[1].decode())
        if dtype is None:
            raise _OtherError
        self._put()
        self._expect(_EMPTY.strided)
        self._properties[self._put()] = dtype
        return dtype

    def _path(self) -> tuple[str | int, ...]:
        is_marked = self._has(b"(")
        steps: list[str | int] = []
        while (end := self._data[self._at : self._at + 1]) not in b")\x85\x86\x87t":
            found = _NUMBER.match(self._data, self._at)
            if found is None:
                steps.append(self._text())
            else:
                steps.append(self._ints[found[0]])
                self._at = found.end()
            if len(steps) > DEEPEST:
                raise _OtherError
        self._at += 1
        _check_end(end, len(steps), is_marked)
        return tuple(steps)

    def _places(self) -> dict[Key, Place]:
        places: dict[Key, Place] = {}
        count = 0
        match, texts, sizes, ints = _PLACE.match, self._texts, self._sizes, self._ints
        self._expect(b"}")
        while self._has(b"("):
            while True:
                found = match(self._data, self._at)
                if found is None:
                    if self._has(b"u"):
                        break
                    key, place = self._place()
                else:
                    name, size, file, offset, nbytes = found.groups()
                    key = (texts[name], None if size is None else sizes[size])
                    place = Place(texts[file], ints[offset], ints[nbytes])
                    self._at = found.end()
                places[key] = place
                count += 1
        if len(places) != count:
            raise _OtherError  # a piece is saved once
        return places

    def _place(self) -> tuple[Key, Place]:
        """A slice whose name or file is written out."""
        self._expect(_EMPTY.found)
        name = self._text()
        size = self._match(_AT_ALONE)[1]
        self._expect(_EMPTY.info)
        file = self._text()
        offset, nbytes = self._match(_NUMBERS_ALONE).groups()
        place = Place(file, self._ints[offset], self._ints[nbytes])
        return (name, None if size is None else self._sizes[size]), place

    def _text(self) -> str:
        """A text that is written out, and may get a number; or one that has a number."""
        data, at = self._data, self._at
        if data[at] != ord("X"):
            width = 2 if data[at] == ord("h") else 5
            self._at += width
            return self._texts[data[at : at + width]]
        (nbytes,) = struct.unpack_from("<I", data, at + 1)
        end = at + 5 + nbytes
        text = data[at + 5 : end].decode("utf-8", "surrogatepass")
        self._at = end
        if data[end] in b"qr":
            self._texts[self._put()] = text
        return text

    def _put(self) -> bytes:
        """The next number is given away; the bytes that refer to it."""
        put, ref = memo_of(self._count)
        self._expect(put)
        self._count += 1
        return ref

    def _size(self, raw: bytes) -> tuple[int, ...]:
        is_marked = raw[:1] == b"("
        found = tuple(self._ints[each] for each in _NUMBER.findall(raw[is_marked:-1]))
        _check_end(raw[-1:], len(found), is_marked)
        if self._hashes.are_suspicious(found):
            raise _OtherError
        return found

    def _has(self, wanted: bytes) -> bool:
        """Whether these bytes come next; then they are read."""
        is_there = self._data.startswith(wanted, self._at)
        self._at += len(wanted) * is_there
        return is_there

    def _expect(self, wanted: bytes) -> None:
        if not self._has(wanted):
            raise _OtherError

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        found = pattern.match(self._data, self._at)
        if found is None:
            raise _OtherError
        self._at = found.end()
        return found


def _int(raw: bytes) -> int:
    """A number from its opcode; those with a sign are none of ours."""
    number = int.from_bytes(raw[2 if raw[0] == 0x8A else 1 :], "little")
    if raw[0] in b"J\x8a" and raw[-1] >= 0x80:
        raise _OtherError
    return number


def _check_end(end: bytes, count: int, is_marked: bool) -> None:
    if is_marked != (end == b"t") or (not is_marked and _ENDS[end] != count):
        raise _OtherError
