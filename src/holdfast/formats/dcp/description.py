"""``.metadata`` as bytes: a pickle of torch's records, written from templates.

A folder of a thousand processes has millions of slices, and each takes three records: what is the
same in all of them is made once. What is said of tensors stays the same from save to save, and is
kept; values, whose bytes differ each time, come behind it. Records: metadata.py and filesystem.py
of torch.distributed.checkpoint, torch 2.13; opcodes: Lib/pickletools.py of CPython, protocol 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from holdfast.formats.dcp.layout import Box, Key, Metadata, Place, TensorEntry

_METADATA = "torch.distributed.checkpoint.metadata"
#: What every such pickle names, in the order of the memo; then what its records call their fields.
SYMBOLS = (
    (_METADATA, "Metadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "MetadataIndex"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
)
KEYS = (
    *("state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version"),
    *("properties", "size", "chunks", "offsets", "sizes"),
    *("fqn", "index", "offset", "relative_path", "length"),
)
_NEW = b")\x81"  # of a class, without arguments
TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}


class Value(NamedTuple):
    """A value that is no tensor: where its slice lies, and its path in the state."""

    place: Place
    path: tuple[str | int, ...]


class Description:
    """What stays the same, by name: ``entries``, ``places`` of their slices, ``paths``."""

    def __init__(
        self,
        entries: Mapping[str, TensorEntry | None],
        places: Mapping[Key, Place],
        paths: Mapping[str, tuple[str | int, ...]],
    ) -> None:
        self._memo: dict[object, bytes] = {}
        self._sizes: dict[tuple[int, ...], bytes] = {}
        head = [b"\x80\x02", *(self._symbol(*pair) + b"0" for pair in SYMBOLS)]
        head += [self._text(key) + b"0" for key in KEYS]
        self.head = b"".join(head)
        self.chunk = self.new("ChunkStorageMetadata") + b"}(" + self.ref("offsets")
        self.found = self.new("MetadataIndex") + b"}(" + self.ref("fqn")
        self.info = self.new("_StorageInfo") + b"}(" + self.ref("relative_path")
        layout = self.ref("_get_layout") + plain_text("torch.strided") + b"\x85R"
        contiguous = self.ref("_MEM_FORMAT_ENCODING") + _int(0) + b"\x85R"
        self.strided = layout + b"\x89" + contiguous + b"\x89tb"
        self._entries = b"".join(self._described(entries))
        self._paths = b"".join(
            self._text(name) + self._path(paths[name], self._text) for name in entries
        )
        self._places = b"".join(self._placed(entries, places))

    def data(self, values: Mapping[str, Value]) -> bytes:
        """All of it, with these values behind the rest."""
        # Their texts are written out: what of the rest names one may come behind it.
        entry = self.new("BytesStorageMetadata")
        texts = {name: plain_text(name) for name in values}
        new = b"".join(text + entry for text in texts.values())
        paths = b"".join(
            texts[name] + self._path(each.path, plain_text) for name, each in values.items()
        )
        places = b"".join(
            self._index(texts[name], None, None)
            + self._place(each.place, plain_text(each.place.file))
            for name, each in values.items()
        )
        get = self._memo.__getitem__
        return b"".join(
            (
                *(self.head, self.new("Metadata"), b"}("),
                *(get("state_dict_metadata"), _dict(self._entries, new)),
                *(get("planner_data"), _dict(self._paths, paths)),
                *(get("storage_data"), _dict(self._places, places)),
                *(get("storage_meta"), b"N", get("version"), plain_text("1.0.0"), b"ub."),
            )
        )

    def _described(self, entries: Mapping[str, TensorEntry | None]) -> Iterator[bytes]:
        get = self._memo.__getitem__
        new = self.new("TensorStorageMetadata") + b"}("
        for name, entry in entries.items():
            yield self._text(name)
            if entry is None:
                yield self.new("BytesStorageMetadata")
                continue
            yield new + get("properties") + self._properties(entry.dtype.name)
            yield get("size") + self._size(entry.shape) + get("chunks") + b"]("
            for box in entry.boxes:
                yield self._boxed(box)
            yield b"eub"

    def _boxed(self, box: Box) -> bytes:
        sizes = self._sizes.get(box.sizes)
        if sizes is None:
            sizes = self._sizes[box.sizes] = self._memo["sizes"] + self._size(box.sizes) + b"ub"
        return self.chunk + self._size(box.offsets) + sizes

    def _placed(
        self, entries: Mapping[str, TensorEntry | None], places: Mapping[Key, Place]
    ) -> Iterator[bytes]:
        for name, entry in entries.items():
            if entry is None:
                place = places[name, None]
                yield self._index(self._text(name), None, None)
                yield self._place(place, self._text(place.file))
                continue
            for number, box in enumerate(entry.boxes):
                place = places[name, box.offsets]
                yield self._index(self._text(name), box.offsets, number)
                yield self._place(place, self._text(place.file))

    def _index(self, name: bytes, offsets: tuple[int, ...] | None, number: int | None) -> bytes:
        """What torch finds a slice by; with the number it need not look through all of a tensor."""
        get = self._memo.__getitem__
        at = b"N" if offsets is None else self._size(offsets)
        index = b"N" if number is None else _int(number)
        return self.found + name + get("index") + index + get("offset") + at + b"ub"

    def _place(self, place: Place, file: bytes) -> bytes:
        get = self._memo.__getitem__
        numbers = get("offset") + _int(place.offset) + get("length") + _int(place.nbytes)
        return self.info + file + numbers + b"ub"

    def _properties(self, dtype: str) -> bytes:
        """Element type, layout, whether there are gradients, memory format, whether pinned."""
        known = self._memo.get(("properties", dtype))
        if known is not None:
            return known
        state = b"(" + self._symbol("torch", dtype) + self.strided
        return self.new("TensorProperties") + state + self._put(("properties", dtype))

    def _path(self, path: tuple[str | int, ...], text: Callable[[str], bytes]) -> bytes:
        return _tuple(_int(step) if isinstance(step, int) else text(step) for step in path)

    def _size(self, numbers: tuple[int, ...]) -> bytes:
        return self._memo["Size"] + _tuple(map(_int, numbers)) + b"\x85R"

    def ref(self, name: str) -> bytes:
        """One of ``SYMBOLS`` or ``KEYS``, had from the memo."""
        return self._memo[name]

    def new(self, name: str) -> bytes:
        """An object of one of the classes, without its state."""
        return self._memo[name] + _NEW

    def _symbol(self, module: str, name: str) -> bytes:
        known = self._memo.get(name)
        return known or f"c{module}\n{name}\n".encode() + self._put(name)

    def _text(self, text: str) -> bytes:
        known = self._memo.get(("text", text)) or self._memo.get(text if text in KEYS else None)
        if known is not None:
            return known
        return plain_text(text) + self._put(text if text in KEYS else ("text", text))

    def _put(self, what: object) -> bytes:
        """Keep what is on the stack; from now on it is had by its number."""
        put, self._memo[what] = memo_of(len(self._memo))
        return put


def memo_of(number: int) -> tuple[bytes, bytes]:
    """The opcodes that put what is on the stack into the memo, and that get it."""
    if number < 256:
        return b"q" + bytes([number]), b"h" + bytes([number])
    at = struct.pack("<I", number)
    return b"r" + at, b"j" + at


def _dict(*items: bytes) -> bytes:
    return b"}" + b"".join(b"(" + each + b"u" for each in items if each)


def _tuple(items: Iterable[bytes]) -> bytes:
    found = list(items)
    made = b"".join(found)
    return made + TUPLES[len(found)] if len(found) < 4 else b"(" + made + b"t"


def plain_text(text: str) -> bytes:
    """A text that gets no number."""
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes((value,))
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(data),)) + data


def write_metadata(metadata: Metadata) -> bytes:
    """The bytes of a whole description, in its order; ``symbols`` say nothing here."""
    paths = {name: metadata.paths.get(name, (name,)) for name in metadata.entries}
    return Description(metadata.entries, metadata.places, paths).data({})
