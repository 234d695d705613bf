"""Folders that several processes write, and what describes them, without the processes."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import strategies as st

from holdfast.formats.dcp.description import Description, Value, write_metadata
from holdfast.formats.dcp.layout import NAME, Box, Metadata, Place, TensorEntry
from holdfast.formats.dcp.metadata import read_metadata
from holdfast.formats.dcp.seal import joined, seal
from holdfast.formats.dcp.write import slice_of
from holdfast.io.checksum import crc32
from holdfast.io.folder import Folder
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.record import MEMBER, Record, encode

NUMBERS = st.integers(0, 1 << 40)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TEXTS = NAMES | st.sampled_from(["size", "offset", "model", "fqn", "Metadata", "float32"])
DTYPES = st.sampled_from([BY_NAME[name] for name in ("float32", "bfloat16", "int64", "uint16")])
PATHS = st.lists(TEXTS | st.integers(0, 1 << 20), min_size=1, max_size=4).map(tuple)


@st.composite
def metadatas(draw: st.DrawFn) -> Metadata:
    """Any tensors and values, with pieces anywhere: what tiles is not looked at here."""
    entries: dict[str, TensorEntry | None] = {}
    places = {}
    for name in draw(st.lists(TEXTS, unique=True, max_size=6)):
        place = st.builds(Place, TEXTS, NUMBERS, NUMBERS)
        if draw(st.booleans()):
            entries[name] = None
            places[name, None] = draw(place)
            continue
        axes = draw(st.integers(0, 5))
        sizes = st.tuples(*[NUMBERS] * axes)
        boxes = draw(
            st.lists(st.builds(Box, sizes, sizes), max_size=4, unique_by=lambda b: b.offsets)
        )
        entries[name] = TensorEntry(draw(DTYPES), draw(sizes), tuple(boxes))
        places |= {(name, box.offsets): draw(place) for box in boxes}
    paths = {name: draw(PATHS) for name in entries}
    tensors = {name: each for name, each in entries.items() if each is not None}
    return Metadata({**tensors, **entries}, places, paths, ())


@st.composite
def descriptions(draw: st.DrawFn) -> bytes:
    """The bytes of any, with values that came behind the rest or not."""
    told = draw(metadatas())
    texts = TEXTS.filter(lambda name: name not in told.entries)
    value = st.builds(Value, st.builds(Place, TEXTS, NUMBERS, NUMBERS), PATHS)
    values = draw(st.dictionaries(texts, value, max_size=3))
    return Description(told.entries, told.places, told.paths).data(values)


def many(slices: int) -> bytes:
    """A tensor of so many pieces, of a hundred files."""
    boxes = tuple(Box((n, 0), (1, 1000)) for n in range(slices))
    places = {
        ("w", box.offsets): Place(f"__{n % 100}_0.distcp", n * 5000, 5000)
        for n, box in enumerate(boxes)
    }
    entry = TensorEntry(BY_NAME["float32"], (slices, 1000), boxes)
    return write_metadata(Metadata({"w": entry}, places, {}, ()))


def write_folder(path: Path, *, files: int, tensors: int = 3, is_sealed: bool = True) -> None:
    """A folder as a run of so many processes writes it: of each tensor every one has a row."""
    planned = slice_of(BY_NAME["float32"], (1, 5))
    entries: dict[str, TensorEntry | None] = {}
    places, checksums = {}, {}
    path.mkdir()
    for file in range(files):
        name, data, crcs = f"__{file}_0.distcp", b"", []
        for number in range(tensors):
            row = struct.pack("<5f", *range(5 * file, 5 * file + 5))
            piece = planned.head + row + planned.tail(crc32(row))
            places[f"t{number}", (file, 0)] = Place(name, len(data), len(piece))
            data += piece
            crcs.append(crc32(piece))
        (path / name).write_bytes(data)
        checksums[name] = joined(crcs)
    boxes = tuple(Box((file, 0), (1, 5)) for file in range(files))
    for number in range(tensors):
        entries[f"t{number}"] = TensorEntry(BY_NAME["float32"], (files, 5), boxes)
    described = write_metadata(Metadata(entries, places, {}, ()))
    (path / NAME).write_bytes(described)
    record = encode(Record(id="a"))
    if is_sealed:
        record = seal(record, {**checksums, NAME: joined([crc32(described)])})
    (path / MEMBER).write_bytes(record)


def written_otherwise(path: Path, file: str) -> None:
    """Have one slice of a file say that it needs a gradient, and all checksums be right again."""
    places = read_metadata(Folder(str(path))).places.values()
    data = (path / file).read_bytes()
    place = next(p for p in places if p.file == file and _PLAIN in _of(data, p))
    piece = _of(data, place)
    crc = crc32(_pickle_in(piece)).to_bytes(4, "little")
    other = piece.replace(_PLAIN, b"\x88" + _PLAIN[1:])
    other = other.replace(crc, crc32(_pickle_in(other)).to_bytes(4, "little"))
    (path / file).write_bytes(data[: place.offset] + other + data[place.offset + place.nbytes :])
    record, _, _ = (path / MEMBER).read_bytes().partition(b',\n "checksums"')
    checksums = {NAME: joined([crc32((path / NAME).read_bytes())])}
    for name in sorted({place.file for place in places}):
        own = sorted((p for p in places if p.file == name), key=lambda p: p.offset)
        data = (path / name).read_bytes()
        checksums[name] = joined(crc32(_of(data, p)) for p in own)
    (path / MEMBER).write_bytes(seal(record + b"\n}", checksums))


#: Where a pickle says that a tensor needs no gradient.
_PLAIN = b"\x89ccollections"


def _of(data: bytes, place: Place) -> bytes:
    return data[place.offset : place.offset + place.nbytes]


def _pickle_in(piece: bytes) -> bytes:
    start = piece.index(b"\x80\x02")
    return piece[start : piece.index(b"PK\x07\x08", start)]
