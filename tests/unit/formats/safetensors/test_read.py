from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.arrays.read import Reader
from holdfast.errors import DamagedError, HoldfastError, RefusedError
from holdfast.formats import read_index
from holdfast.formats.safetensors import seal, write
from holdfast.io.checksum import crc32
from holdfast.io.source import open_source
from holdfast.report.verify import verify_index
from holdfast.spec import record as records
from holdfast.spec.dtypes import BY_NAME, BY_SAFETENSORS
from holdfast.spec.index import Index
from holdfast.tensors.load import load_file

TYPES = [dtype.name for dtype in BY_SAFETENSORS.values() if not dtype.name.startswith("float6")]


def look(data: bytes) -> Index:
    with open_source(io.BytesIO(data)) as source:
        return read_index(source)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int = 0, end: int = 4, dtype: str = "F32", shape: object = (1,)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def some(name: str) -> torch.Tensor:
    dtype = getattr(torch, name)
    return torch.randint(0, 2, (2 * 3 * 4 * dtype.itemsize,), dtype=torch.uint8).view(dtype)


def test_every_type_is_read_as_safetensors_reads_it(tmp_path):
    tensors = {name: some(name).reshape(2, 3, 4) for name in TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.empty(0, 3), "flat": torch.arange(7)}
    path = tmp_path / "any.pt"  # the suffix means nothing
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    expected = safetensors.torch.load_file(path)
    loaded = load_file(path)
    assert loaded.keys() == expected.keys() == tensors.keys()
    for name, tensor in expected.items():
        got = loaded[name]
        assert (got.dtype, got.shape, got.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert torch.equal(got.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


def test_every_type_as_an_array():
    tensors = {name: some(name).reshape(4, 6) for name in TYPES}
    data = safetensors.torch.save(tensors)
    with open_source(io.BytesIO(data)) as source:
        reader = Reader(index := read_index(source), source)
        arrays = {name: reader.array(node) for name, node in index.tree.items()}
    assert arrays.keys() == tensors.keys()
    for name, array in arrays.items():
        assert array.shape == tuple(tensors[name].shape)
        assert array.tobytes() == tensors[name].view(torch.uint8).numpy().tobytes()


def test_the_index_says_where_each_tensor_lies():
    data = safetensors.torch.save({"a": torch.ones(3), "b": torch.arange(2)}, {"k": "v"})
    index = look(data)
    assert (index.format, index.file_nbytes, dict(index.metadata)) == (
        "safetensors",
        len(data),
        {"k": "v"},
    )
    extent = index.extents["a"]
    at = slice(extent.offset, extent.offset + extent.nbytes)
    assert np.frombuffer(data[at], np.float32).tolist() == [1, 1, 1]
    assert (extent.member, extent.expected_crc) == ("a", None)
    assert index.tree["b"].storage.key == "b"


def test_a_file_inside_another_one_has_the_offsets_of_the_outer_one():
    data = safetensors.torch.save({"a": torch.arange(3)})
    with open_source(io.BytesIO(b"before" + data)) as source:
        window = source.window(6, len(data))
        index = read_index(window)
        assert Reader(index, source).array(index.tree["a"]).tolist() == [0, 1, 2]


def test_six_bit_numbers():
    text = file_of({"six": entry(0, 3, "F6_E2M3", [2, 2])}, bytes([0b10_000001, 0b0010_0000, 0]))
    with open_source(io.BytesIO(text)) as source:
        index = read_index(source)
        array = Reader(index, source).array(index.tree["six"])
    assert array.shape == (2, 2)
    assert array.view(np.uint8).tolist() == [[1, 2], [2, 0]]


@pytest.mark.parametrize("shape", [[], [2, 3]])
def test_four_bit_numbers_that_are_no_pairs_are_refused(shape):
    with pytest.raises(RefusedError, match="come in pairs along the last axis") as caught:
        look(file_of({"f": entry(0, 3, "F4", shape)}, bytes(3)) if shape else odd_scalar())
    assert caught.value.tensor == "f"


def odd_scalar() -> bytes:
    # Twelve bits of data for nothing: only sizes of whole bytes get as far as the pairs.
    return file_of({"f": entry(0, 1, "F4", [2, 1])}, bytes(1))


def file_by_convert(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A file as ``convert`` writes it: the header carries its own checksum."""
    placed = write.layout(
        [(name, BY_NAME[str(t.dtype)[6:]], t.shape) for name, t in tensors.items()],
        {**metadata, seal.SEAL: seal.EMPTY},
    )
    data = [tensors[each.name].numpy().tobytes() for each in placed.tensors]
    return b"".join([seal.sealed(placed.header), *data])


TENSORS = {"a": torch.arange(5.0), "b": torch.arange(3)}
CRCS = {name: f"{crc32(tensor.numpy().tobytes()):08x}" for name, tensor in TENSORS.items()}


def test_checksums_that_convert_wrote_are_checked():
    data = file_by_convert(TENSORS, {"holdfast.crc32": json.dumps(CRCS)})
    with open_source(io.BytesIO(data)) as source:
        assert verify_index(read_index(source), source).status == "good"
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    with open_source(io.BytesIO(flipped)) as source:
        report = verify_index(read_index(source), source)
    assert (report.status, [damage.tensors for damage in report.damages]) == ("damaged", [("a",)])
    with pytest.raises(HoldfastError, match="are not those that were saved"):
        load_file(io.BytesIO(flipped))


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"a": 1}', '{"a": "123"}', '{"a": "x", "a":1}'])
def test_a_list_of_checksums_that_is_none_is_a_note(text):
    index = look(file_by_convert(TENSORS, {"holdfast.crc32": text}))
    assert {extent.expected_crc for extent in index.extents.values()} == {None}
    assert any("checksums" in note for note in index.notes)


def test_a_header_that_is_not_the_one_saved_is_an_error():
    """Also one that another program wrote anew with the metadata of the old one."""
    data = file_by_convert(TENSORS, {"holdfast.crc32": json.dumps(CRCS)})
    with open_source(io.BytesIO(data)) as source:
        kept = dict(read_index(source).metadata)
    again = safetensors.torch.save({"b": torch.zeros(3)}, kept)
    with pytest.raises(DamagedError) as caught:
        look(again)
    found = crc32(again[: 8 + int.from_bytes(again[:8], "little")].replace(
        kept[seal.SEAL].encode(), seal.EMPTY.encode()
    ))  # fmt: skip
    assert str(caught.value) == (
        "the header of this safetensors file is not the one that was saved\n"
        "  in <BytesIO>\n"
        f"  wanted CRC {kept[seal.SEAL]}, found {found:08x}\n"
        "  Names, types or places of its tensors may be wrong: use an earlier checkpoint.\n"
        "  If another program wrote it anew with the metadata of the old file: leave out the keys\n"
        "  of the metadata that begin with 'holdfast.'."
    )
    del kept[seal.SEAL]
    with pytest.raises(
        DamagedError, match=r"wanted its CRC under 'holdfast.header_crc32', found none"
    ):
        look(safetensors.torch.save(TENSORS, kept))


def test_without_checksums_nothing_is_known_to_be_damaged():
    with open_source(io.BytesIO(safetensors.torch.save(TENSORS))) as source:
        assert verify_index(read_index(source), source).status == "unknown"


def test_the_record_comes_back():
    record = records.Record(id="abc", step=7, metrics={"loss": float("nan")})
    index = look(file_by_convert(TENSORS, {"holdfast": records.encode(record).decode()}))
    assert (index.record.id, index.record.step) == ("abc", 7)
    broken = look(file_by_convert(TENSORS, {"holdfast": "{}"}))
    assert broken.record is None
    assert broken.notes[0].startswith("the record of this checkpoint cannot be read: ")


class Tied(torch.nn.Module):
    """The head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_there_under_all_their_names(tmp_path):
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "tied"))
    with open_source(tmp_path / "tied") as source:
        index = read_index(source)
    assert list(index.tree) == ["embed.weight", "head.weight"]
    assert index.tree["embed.weight"].storage is index.tree["head.weight"].storage
    assert index.notes == ()
    assert list(index.extents) == ["embed.weight"]
    loaded = holdfast.load(tmp_path / "tied")
    assert loaded["embed.weight"].data_ptr() == loaded["head.weight"].data_ptr()
    fresh = Tied()
    fresh.load_state_dict(loaded)
    assert torch.equal(fresh.head.weight, model.embed.weight)


@pytest.mark.parametrize(
    ("metadata", "names", "notes"),
    [
        (
            {"best_layer": "a.weight", "x.weight": "gone.weight"},
            ["a.weight"],
            ("best_layer may be another name of a.weight: the metadata says a.weight",),
        ),
        ({"format": "a.weight", "holdfast.crc32": "a.weight"}, ["a.weight"], None),
        ({"b.weight": "a.weight"}, ["a.weight", "b.weight"], ()),
        ({"b.bias": "a.weight", "holdfast": "{}"}, ["a.weight", "b.bias"], None),
    ],
)
def test_only_what_is_surely_another_name_is_one(metadata, names, notes, tmp_path):
    safetensors.torch.save_file({"a.weight": torch.zeros(2)}, str(tmp_path / "f"), metadata)
    with open_source(tmp_path / "f") as source:
        if "holdfast.crc32" in metadata:
            with pytest.raises(DamagedError):
                read_index(source)
            return
        index = read_index(source)
    assert list(index.tree) == names
    if notes is not None:
        assert index.notes == notes


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(
            lambda name: name != "__metadata__"
        ),
        st.lists(st.integers(0, 3), max_size=3),
    )
)
def test_what_is_written_is_read(shapes):
    six = BY_SAFETENSORS["F16"]
    plan = write.layout([(name, six, shape) for name, shape in shapes.items()], {"é": "\0"})
    index = look(plan.header + bytes(plan.nbytes - len(plan.header)))
    assert {name: list(ref.shape) for name, ref in index.tree.items()} == shapes
    places = {name: (extent.offset, extent.nbytes) for name, extent in index.extents.items()}
    assert places == {place.name: (place.offset, place.nbytes) for place in plan.tensors}


def seconds(count: int) -> float:
    tensors = {f"model.layers.{i}.mlp.weight": entry(i * 4, i * 4 + 4) for i in range(count)}
    data = file_of(tensors, bytes(4 * count))
    with open_source(io.BytesIO(data)) as source:
        start = time.process_time()
        read_index(source)
        return time.process_time() - start


def test_the_work_is_linear():
    assert seconds(100_000) < 40 * min(seconds(10_000) for _ in range(3)) + 1
