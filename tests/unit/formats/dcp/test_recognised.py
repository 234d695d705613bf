"""``.metadata`` as we write it, read by its patterns: the same as its opcodes say, or nothing."""

from __future__ import annotations

import pickle
import tracemalloc

import pytest
import torch.distributed.checkpoint.metadata as torch_metadata
from described import descriptions, many, metadatas
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import HoldfastError, RefusedError
from holdfast.formats.dcp.description import write_metadata
from holdfast.formats.dcp.layout import MOST_AXES, Box, Metadata, Place, TensorEntry
from holdfast.formats.dcp.metadata import unpickled
from holdfast.formats.dcp.recognised import _BOX, recognised
from holdfast.spec.dtypes import BY_NAME


def as_any_pickle(data: bytes) -> Metadata | None:
    """What the opcodes say; None where they are refused."""
    try:
        return unpickled(data, file="here")
    except HoldfastError:
        return None


@given(descriptions())
def test_all_that_we_write_is_recognised(data: bytes) -> None:
    found = recognised(data)
    assert found is not None
    assert found == unpickled(data, file="here")
    assert list(found.entries) == list(unpickled(data, file="here").entries)


@given(metadatas(), st.data())
def test_other_bytes_mean_the_same_or_are_not_recognised(
    metadata: Metadata, draw: st.DataObject
) -> None:
    data = bytearray(write_metadata(metadata))
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(data) - 1))
        # The bytes of opcodes and short numbers, more often than others.
        new = draw.draw(st.sampled_from([*data, *b"\x85\x86\x87)(tubjhqrKMJNX\x8a\x00\xff"]))
        if draw.draw(st.booleans()):
            data[at] = new
        else:
            data[at : at + draw.draw(st.integers(0, 2))] = bytes([new])
    found = recognised(bytes(data))
    if found is not None:
        assert found == as_any_pickle(bytes(data))


def test_every_byte_counts() -> None:
    """Each byte of a description, set to what else could stand there."""
    boxes = (Box((0, 0), (2, 300)), Box((2, 0), (70_000, 300)))
    places = {("w", box.offsets): Place(f"f{n}", n, 1 << 33) for n, box in enumerate(boxes)}
    entry = TensorEntry(BY_NAME["float32"], (70_002, 300), boxes)
    whole = write_metadata(
        Metadata(
            {"w": entry, "v": None},
            {**places, ("v", None): Place("f0", 5, 6)},
            {"w": ("model", 3)},
            (),
        )
    )
    assert recognised(whole) == as_any_pickle(whole) is not None
    recognised_too = 0
    for at, byte in enumerate(whole):
        for new in {byte ^ 1, byte ^ 0x80, *b"h)tN"} - {byte}:
            data = whole[:at] + bytes([new]) + whole[at + 1 :]
            found = recognised(data)
            if found is not None:
                recognised_too += 1
                assert found == as_any_pickle(data), (at, new)
    assert recognised_too > 50  # other numbers, names, element types: such are ours as well


def test_a_part_of_it_is_not_recognised() -> None:
    data = many(3)
    assert recognised(data) is not None
    assert not any(recognised(data[:end]) for end in range(len(data)))
    assert recognised(data + b".") is None


def test_torch_s_own_is_not_recognised() -> None:
    empty = torch_metadata.Metadata({}, {}, {})
    for protocol in (2, 4, 5):
        data = pickle.dumps(empty, protocol)
        assert recognised(data) is None
        assert as_any_pickle(data) is not None


@pytest.mark.parametrize(
    "numbers", [b"J\xff\xff\xff\xff\x85", b"\x8a\x05\x00\x00\x00\x00\x80\x85", b"K\x01\x86", b")"]
)
def test_sizes_that_are_none(numbers: bytes) -> None:
    """Below nothing, more or fewer than the tuple has, and of other axes than the tensor."""
    entry = TensorEntry(BY_NAME["float32"], (7,), (Box((0,), (7,)),))
    data = write_metadata(Metadata({"w": entry}, {("w", (0,)): Place("f", 0, 9)}, {}, ()))
    assert data.count(b"K\x07\x85") == 2
    assert recognised(data) is not None
    for other in (
        data.replace(b"K\x07\x85", numbers, 1),
        data[::-1].replace(b"\x85\x07K", numbers[::-1], 1)[::-1],
    ):
        assert recognised(other) is None


def test_limits_are_those_of_any_pickle() -> None:
    axes = (1,) * (MOST_AXES + 1)
    entry = TensorEntry(BY_NAME["float32"], axes, ())
    data = write_metadata(Metadata({"w": entry}, {}, {}, ()))
    assert recognised(data) is None
    assert as_any_pickle(data) is None


def test_a_name_or_a_piece_that_is_there_twice() -> None:
    places = {("a", None): Place("f", 0, 9), ("b", None): Place("f", 9, 9)}
    data = write_metadata(Metadata({"a": None, "b": None}, places, {}, ()))
    name, twice = b"X\x01\0\0\0b", b"X\x01\0\0\0a"
    assert data.count(name) == 1
    assert recognised(data) is not None
    assert recognised(data.replace(name, b"X\x01\0\0\0c")) is not None
    assert recognised(data.replace(name, twice)) is None  # its piece, as well
    # The number of "a" in place of that of "b", where slices are found.
    at = data.rindex(b"h\x14h\x1a")
    found = data[: at + 3] + b"\x19" + data[at + 4 :]
    assert recognised(found) is None
    assert as_any_pickle(found) is None


def test_memory_is_a_fraction_of_what_opcodes_take() -> None:
    data = many(1_000)
    peaks = []
    for read in (recognised, lambda data: unpickled(data, file="here")):
        tracemalloc.start()
        found = read(data)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found is not None
        assert len(found.places) == 1_000
    assert peaks[0] < peaks[1] / 2


def test_offsets_that_collide_by_the_thousand_are_refused() -> None:
    """Python does not salt the hashes of numbers; a dict of such keys takes quadratic time."""
    prime = (1 << 61) - 1
    boxes = tuple(
        Box(tuple(prime * (n >> 2 * axis & 3) for axis in range(7)), (1,) * 7) for n in range(6000)
    )
    assert len({hash(box.offsets) for box in boxes}) == 1
    places = {("w", box.offsets): Place("f", n, 1) for n, box in enumerate(boxes)}
    entry = TensorEntry(BY_NAME["uint8"], (1 << 62,) * 7, boxes)
    data = write_metadata(Metadata({"w": entry}, places, {}, ()))
    assert recognised(data) is None
    with pytest.raises(RefusedError, match="keys do not collide by the thousand"):
        unpickled(data, file="here")


def test_what_is_there_again_and_again_is_no_description_of_ours() -> None:
    """Next to nothing in the file each time, and an object here."""
    entry = TensorEntry(BY_NAME["uint8"], (), (Box((), ()),))
    data = write_metadata(Metadata({"w": entry}, {("w", ()): Place("f", 0, 9)}, {}, ()))
    box = _BOX.search(data)
    assert box is not None
    assert recognised(data) is not None
    assert recognised(data[: box.end()] + box[0] + data[box.end() :]) is None
    place = {("a", None): Place("f", 0, 9)}
    path = write_metadata(Metadata({"a": None}, place, {"a": tuple(range(200))}, ()))
    assert recognised(path) is not None
    path = write_metadata(Metadata({"a": None}, place, {"a": tuple(range(201))}, ()))
    assert recognised(path) is None
