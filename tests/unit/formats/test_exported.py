from __future__ import annotations

import fractions
import io
import json
import pickle
import zipfile

import pytest
import torch
from tests.unit.formats.programs import exported

import holdfast
from holdfast.errors import FormatError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.spec.index import Opaque


@pytest.fixture(scope="module")
def program() -> bytes:
    return exported()


@pytest.fixture
def path(program, tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(program)
    return path


def index_of(data: bytes):
    with open_source(io.BytesIO(data)) as source:
        return read_index(source)


def repacked(data: bytes, members: dict[str, bytes | None]) -> bytes:
    """The same archive with members replaced, added, or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        found = {info.filename.partition("/")[2]: old.read(info) for info in old.infolist()}
        for name, content in {**found, **members}.items():
            if content is not None:
                new.writestr(f"net/{name}", content)
    return buffer.getvalue()


def config_of(data: bytes, folder: str) -> dict:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(n for n in archive.namelist() if f"data/{folder}/" in n and n.endswith("json"))
        return json.loads(archive.read(name))


def with_constant(data: bytes, name: str, content: bytes) -> bytes:
    config = config_of(data, "constants")
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config["config"]["odd"] = entry
    place = "data/constants/"
    return repacked(
        data,
        {
            f"{place}model_constants_config.json": json.dumps(config).encode(),
            f"{place}{name}": content,
        },
    )


def test_weights_and_constants_are_those_that_torch_loads(path):
    ep = torch.export.load(path)
    wanted = {**ep.state_dict, **ep.constants}
    loaded = holdfast.load(path)
    assert loaded.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].stride() == tensor.stride()
        assert type(loaded[name]) is type(tensor)
    with holdfast.open(path) as checkpoint:
        for name, tensor in wanted.items():
            assert checkpoint.array(name).shape == tuple(tensor.shape)
            assert torch.equal(checkpoint.tensor(name), tensor)


def test_what_is_tied_shares_its_storage(path):
    loaded = holdfast.load(path)
    assert loaded["a.weight"].data_ptr() == loaded["b.weight"].data_ptr()
    assert loaded["part"].data_ptr() == loaded["whole"].data_ptr() + 8


def test_the_graph_is_named_and_verify_is_good(path):
    with holdfast.open(path) as checkpoint:
        index = checkpoint.index
        assert index.format == "exported"
        assert index.programs == ("models/model.json",)
        assert index.metadata == {"note.txt": "hello"}
        assert index.symbols == ()
        assert index.notes == ("a program: its graph is not run",)
        assert checkpoint.verify().status == "good"


def test_a_pickled_weight_is_a_torch_file_in_the_file(program):
    buffer = io.BytesIO()
    torch.save(torch.arange(4.0), buffer)
    data = with_constant(program, "tensor_9", buffer.getvalue())
    with open_source(io.BytesIO(data)) as source:
        index = read_index(source)
        ref = index.tree["odd"]
        extent = index.extents[ref.storage.key]
        assert source.read_at(extent.offset, 4 * 4) == torch.arange(4.0).numpy().tobytes()
        assert extent.member == "net/data/constants/tensor_9/archive/data/0"


def test_pickled_objects_stay_data_and_are_named(program):
    data = with_constant(program, "opaque_obj_0", pickle.dumps(fractions.Fraction(1, 2)))
    index = index_of(data)
    assert isinstance(index.tree["odd"], Opaque)
    assert index.symbols == ("fractions.Fraction",)
    with pytest.raises(holdfast.errors.UntrustedError, match="fractions"):
        holdfast.load(io.BytesIO(data))


def test_example_inputs_are_no_part_of_the_tree_and_their_symbols_are_named(program):
    buffer = io.BytesIO()
    torch.save((fractions.Fraction(1, 2),), buffer)
    index = index_of(repacked(program, {"data/sample_inputs/model.pt": buffer.getvalue()}))
    assert index.symbols == ("fractions.Fraction",)
    assert "a.weight" in index.tree


def test_several_programs_have_trees_of_their_own(program):
    config = json.dumps(config_of(program, "weights")).encode()
    index = index_of(repacked(program, {"data/weights/other_weights_config.json": config}))
    assert list(index.tree) == ["model", "other"]
    assert index.tree["other"]["a.weight"].storage == index.tree["model"]["a.weight"].storage


def test_weights_that_never_had_bytes_have_a_shape(program):
    index = index_of(repacked(program, {"data/weights/weight_0": b""}))
    name = next(
        name
        for name, entry in config_of(program, "weights")["config"].items()
        if entry["path_name"] == "weight_0"
    )
    assert index.tree[name].storage is None
    assert "have a shape and no bytes" in index.notes[1]


def test_a_file_of_torch_before_2_8_is_read(tmp_path):
    path = tmp_path / "old.pt2"
    wanted = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", b"{}")
        for name, value in (("state_dict", wanted), ("constants", {"c": torch.ones(1)})):
            buffer = io.BytesIO()
            torch.save(value, buffer)
            archive.writestr(f"serialized_{name}.pt", buffer.getvalue())
        archive.writestr("version", b"5.1")
    loaded = holdfast.load(path)
    assert list(loaded) == ["a.weight", "a.bias", "c"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in wanted.items())
    assert holdfast.verify(path).status == "good"


def test_compiled_code_in_a_package_is_named(program):
    member = "data/aotinductor/model/code.so"
    assert member in index_of(repacked(program, {member: b"\x7fELF"})).programs


def test_a_description_that_is_no_json(program):
    broken = {"data/weights/model_weights_config.json": b'{"config": {"a": 1, "a": 2}}'}
    with pytest.raises(FormatError) as caught:
        index_of(repacked(program, broken))
    assert str(caught.value) == (
        "the description of this program's weights cannot be read\n"
        "  in <BytesIO>, member 'net/data/weights/model_weights_config.json'\n"
        "  wanted plain JSON, found a key stands there twice\n"
        "  The file is broken: get it again, or use an earlier one."
    )
