from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from holdfast.arrays.read import Reader
from holdfast.errors import FormatError, HoldfastError, RefusedError, TruncatedError
from holdfast.formats import protobuf, read_index
from holdfast.io.source import Memory, open_source
from holdfast.spec.index import TensorRef
from holdfast.tensors.load import load_file

PACKED = ("UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2")
SIX = ("FLOAT6E2M3", "FLOAT6E3M2")
TYPES = [name for name, n in TensorProto.DataType.items() if n not in (0, TensorProto.STRING)]


def model_of(*tensors: TensorProto, nodes=(), **options) -> bytes:
    graph = helper.make_graph(list(nodes), "g", [], [], list(tensors), **options)
    made: bytes = helper.make_model(graph, producer_name="holdfast's tests").SerializeToString()
    return made


def arrays_of(data) -> dict[str, np.ndarray]:
    with open_source(io.BytesIO(data) if isinstance(data, bytes) else data) as source:
        index = read_index(source)
        reader = Reader(index, source)
        return {
            name: reader.array(node) if not isinstance(node, list) else node
            for name, node in index.tree.items()
        }


def typed(name: str, *, raw: bool) -> TensorProto:
    kind = TensorProto.DataType.Value(name)
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(helper.tensor_dtype_to_np_dtype(kind))
    if raw:
        return numpy_helper.from_array(values, name)
    return helper.make_tensor(name, kind, values.shape, values)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", [name for name in TYPES if name not in PACKED])
def test_every_type_is_what_onnx_reads(name, raw):
    tensor = typed(name, raw=raw)
    if name in SIX and not raw and not tensor.HasField("raw_data"):
        with pytest.raises(RefusedError, match="numbers of six bits are raw bytes"):
            arrays_of(model_of(tensor))
        return
    array = arrays_of(model_of(tensor))[name]
    expected = numpy_helper.to_array(tensor)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_is_shown_as_its_bytes_with_a_note(name, raw):
    tensor = typed(name, raw=raw)
    with open_source(io.BytesIO(model_of(tensor))) as source:
        index = read_index(source)
        found = Reader(index, source).array(index.tree[name])
    bits = 2 if name.endswith("2") else 4
    count = 8 // bits
    expected = numpy_helper.to_array(tensor).reshape(-1)
    codes = [(byte >> bits * i) & (2**bits - 1) for byte in found.tolist() for i in range(count)]
    assert codes[:6] == (expected.view(np.uint8) & (2**bits - 1)).tolist()
    kind = "float4" if name == "FLOAT4E2M1" else name.lower()
    assert index.notes == (
        f"{name} holds {kind}, {count} in a byte, of sizes [2, 3]; its bytes are shown",
    )


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_negative_and_large_integers(values):
    tensor = helper.make_tensor("i", TensorProto.INT64, [len(values)], values)
    assert arrays_of(model_of(tensor))["i"].tolist() == values


def test_many_numbers_one_by_one_are_unpacked_in_pieces():
    values = np.random.default_rng(0).integers(-(2**31), 2**31, 300_000, dtype=np.int32)
    tensor = helper.make_tensor("i", TensorProto.INT32, values.shape, values)
    assert (arrays_of(model_of(tensor))["i"] == values).all()


def test_numbers_that_are_not_packed():
    # dims, type, name; then int32_data and float_data as one field each, as proto2 wrote them.
    head = b"\x08\x02\x10%c\x42\x01w"
    for kind, body, expected in (
        (6, b"\x28\x05\x28\x07", [5, 7]),
        (1, b"\x25\x00\x00\x80\x3f\x25\x00\x00\x00\x40", [1.0, 2.0]),
    ):
        tensor = head % kind + body
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        data = b"\x08\x07\x3a" + bytes([len(graph)]) + graph
        model = onnx.load_from_string(data)
        assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == expected
        assert arrays_of(data)["w"].tolist() == expected


def test_strings_scalars_and_empty_tensors():
    data = model_of(
        helper.make_tensor("s", TensorProto.STRING, [2], [b"a", "é".encode()]),
        helper.make_tensor("scalar", TensorProto.FLOAT, [], [2.5]),
        helper.make_tensor("none", TensorProto.FLOAT, [0, 3], []),
    )
    arrays = arrays_of(data)
    assert arrays["s"] == [b"a", "é".encode()]
    assert (arrays["scalar"].shape, float(arrays["scalar"])) == ((), 2.5)
    assert arrays["none"].shape == (0, 3)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(30, 40), torch.nn.Linear(40, 50)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("external", [False, True])
def test_a_model_that_torch_exports(external, tmp_path):
    net, path = Net(), tmp_path / "net.bin"
    program = torch.onnx.export(net, (torch.zeros(2, 30),), dynamo=True, verbose=False)
    program.save(str(tmp_path / "net.onnx"), external_data=external)
    (tmp_path / "net.onnx").rename(path)
    loaded = load_file(path)
    state = net.state_dict()
    assert state.keys() <= loaded.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    with open_source(path) as source:
        index = read_index(source)
        files = {index.extents[name].file for name in state}
    # Small tensors stay in the model.
    assert files == {str(path), *([str(tmp_path / "net.onnx.data")] if external else [])}
    assert (index.format, index.programs, index.metadata["producer_name"]) == (
        "onnx",
        ("graph",),
        "pytorch",
    )
    assert index.metadata["opset_import"].startswith("ai.onnx ")


def test_what_the_model_says_of_itself():
    graph = helper.make_graph([], "g", [], [])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.own", 3)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="p", doc_string="d")
    helper.set_model_props(model, {"classes": "a,b", "ir_version": "is not overwritten"})
    with open_source(io.BytesIO(model.SerializeToString())) as source:
        metadata = read_index(source).metadata
    assert metadata == {
        "ir_version": str(model.ir_version),
        "producer_name": "p",
        "doc_string": "d",
        "classes": "a,b",
        "opset_import": "ai.onnx 21, com.own 3",
    }


def test_graphs_inside_nodes_are_listed_by_path():
    inner = helper.make_graph([], "then", [], [], [helper.make_tensor("w", 1, [1], [7.0])])
    other = helper.make_graph([], "else", [], [], [helper.make_tensor("w", 1, [1], [8.0])])
    node = helper.make_node("If", ["c"], [], name="choice", then_branch=inner, else_branch=other)
    arrays = arrays_of(model_of(helper.make_tensor("w", 1, [1], [6.0]), nodes=[node]))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "w": [6.0],
        "choice.else_branch.w": [8.0],
        "choice.then_branch.w": [7.0],
    }


def sparse(indices: TensorProto, dims: list[int]) -> bytes:
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [5.0, 6.0])
    return model_of(sparse_initializer=[helper.make_sparse_tensor(values, indices, dims)])


def test_sparse_tensors():
    pairs = helper.make_tensor("i", TensorProto.INT64, [2, 2], [0, 1, 1, 2])
    dense = [[0, 5, 0], [0, 0, 6]]
    assert arrays_of(sparse(pairs, [2, 3]))["s"].tolist() == dense
    assert load_file(io.BytesIO(sparse(pairs, [2, 3])))["s"].to_dense().tolist() == dense
    flat = helper.make_tensor("i", TensorProto.INT64, [2], [1, 5])
    assert arrays_of(sparse(flat, [2, 3]))["s"].tolist() == [0, 5, 0, 0, 0, 6]
    with pytest.raises(RefusedError, match="indices of a sparse tensor fit"):
        arrays_of(sparse(helper.make_tensor("i", TensorProto.INT64, [3], [1, 2, 3]), [2, 3]))


def beside(location: str, **told: object) -> bytes:
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **told}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model_of(tensor)


def test_weights_in_a_file_beside(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w").write_bytes(bytes(4) + np.array([1, 2], "<f4").tobytes())
    path = tmp_path / "model"
    for location in ("sub/w", "./sub/w"):
        path.write_bytes(beside(location, offset=4, length=8))
        assert arrays_of(path)["w"].tolist() == [1, 2]
    path.write_bytes(beside("sub/w", offset=4))
    assert arrays_of(path)["w"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("told", "error", "what"),
    [
        ({"location": "../w"}, RefusedError, "the files of a checkpoint folder lie in it"),
        ({"location": "/etc/passwd"}, RefusedError, "the files of a checkpoint folder lie in it"),
        ({"location": "link"}, RefusedError, "the files of a checkpoint folder lie in it"),
        ({"location": ""}, RefusedError, "the files of a checkpoint folder lie in it"),
        ({"location": "none"}, FormatError, "lie in a file that is not there"),
        ({"location": "w", "offset": 1}, TruncatedError, "of this model ends too early"),
        ({"location": "w", "length": 7}, RefusedError, "exactly the bytes of its elements"),
        ({"location": "w", "offset": -1}, RefusedError, "the offset of a tensor in another"),
        ({"location": "w", "length": "1" * 30}, RefusedError, "the length of a tensor in another"),
    ],
)
def test_files_beside_that_are_none(told, error, what, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "w").write_bytes(bytes(8))
    (home / "w").write_bytes(bytes(8))
    (home / "link").symlink_to(tmp_path / "w")
    (home / "model").write_bytes(beside(**told))
    with pytest.raises(error, match=what):
        arrays_of(home / "model")


def test_a_model_in_memory_has_nothing_beside_it():
    with pytest.raises(FormatError) as caught:
        arrays_of(beside("weights.bin"))
    assert str(caught.value) == (
        "the weights of this model lie in a file beside it\n"
        "  in <BytesIO>, tensor 'w'\n"
        "  wanted 'weights.bin'\n"
        "  Give the path of the model, not an open file."
    )


def tensor(**fields: object) -> bytes:
    return model_of(TensorProto(**{"name": "w", "data_type": 1, "dims": [1], **fields}))


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (tensor(), "a tensor has exactly the bytes of its elements"),
        (tensor(raw_data=bytes(5)), "a tensor has exactly the bytes of its elements"),
        (tensor(dims=[2**62, 4], raw_data=bytes(4)), "a tensor has fewer than 2**63 elements"),
        (tensor(dims=[-1], raw_data=bytes(4)), "a tensor has at most 64 sizes, each from 0 on"),
        (tensor(dims=[1] * 65, raw_data=bytes(4)), "a tensor has at most 64 sizes, each from 0 on"),
        (tensor(data_type=0, raw_data=bytes(4)), "an element type is one of ONNX's"),
        (tensor(raw_data=bytes(4), float_data=[1]), "a tensor's bytes are in one place"),
        (tensor(int64_data=[1]), "a tensor's numbers fit its type"),
        (tensor(raw_data=bytes(4), segment={"begin": 0}), "a tensor is stored in one piece"),
        (tensor(raw_data=bytes(4)) + b"\x3a\x00", "a model has one graph"),
        (tensor(raw_data=bytes(4)) + b"\x3a" + b"\xff" * 10, "at most ten bytes"),
        (tensor(raw_data=bytes(4)) + b"\x3a\x7f\x00", "a field of a model ends with its message"),
        (tensor(raw_data=bytes(4)) + b"\x03", "a model is made of protobuf fields"),
        (tensor(raw_data=bytes(4)) + b"\x00\x01", "a model is made of protobuf fields"),
        (b"\x08\x07\x12" + b"\x80" * 10 + b"\x01", "at most ten bytes"),
    ],
)
def test_broken_models_are_refused_by_rule(data, rule):
    with pytest.raises(RefusedError) as caught:
        arrays_of(data)
    assert rule in caught.value.what
    assert caught.value.cure == (
        "The file is broken or was cut off: get it again, or use an earlier one."
    )


def test_names_are_there_once():
    one = helper.make_tensor("w", 1, [1], [1.0])
    with pytest.raises(RefusedError, match="a graph has each name once") as caught:
        arrays_of(model_of(one, one))
    assert caught.value.tensor == "w"


@pytest.mark.parametrize(
    "twice", [b"\x10\x01", b"\x42\x01x", b"\x4a\x04" + bytes(4), b"\x70\x00\x70\x00"]
)
def test_a_tensor_has_each_of_its_fields_once(twice):
    whole = TensorProto(name="w", data_type=1, dims=[1], raw_data=bytes(4)).SerializeToString()
    graph = message(0x2A, whole + twice)
    with pytest.raises(RefusedError, match="a tensor has each of its fields once") as caught:
        arrays_of(b"\x08\x07" + message(0x3A, graph))
    assert caught.value.tensor == "w"
    with pytest.raises(RefusedError, match="a tensor has each of its fields once"):
        arrays_of(b"\x08\x07" + message(0x3A, message(0x2A, b"\x12\x01\x01")))  # no number


def test_a_model_without_a_graph():
    with pytest.raises(FormatError, match="this ONNX model has no graph"):
        arrays_of(b"\x08\x07\x12\x01p")


def message(tag: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([tag]) + length + bytes([size]) + body


def test_graphs_are_not_nested_without_end():
    graph = b""
    for _ in range(300):
        attribute = message(0x0A, b"then_branch_of_it") + message(0x32, graph)
        graph = message(0x0A, message(0x2A, attribute))
    with pytest.raises(RefusedError, match="graphs are at most 20 levels deep"):
        arrays_of(b"\x08\x07" + message(0x3A, graph))


def test_fields_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(protobuf, "MOST_FIELDS", 1000)
    with pytest.raises(RefusedError, match="a model has not too many parts"):
        arrays_of(b"\x08\x07\x12\x01p" + b"\x28\x01" * 1000)


WHOLE = model_of(
    helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]),
    helper.make_tensor("i", TensorProto.INT64, [2], [-1, 300]),
    numpy_helper.from_array(np.arange(4, dtype=np.int16), "raw"),
    nodes=[
        helper.make_node(
            "Loop",
            [],
            [],
            body=helper.make_graph([], "b", [], [], [helper.make_tensor("u", 1, [1], [1.0])]),
        )
    ],
)


def survive(data: bytes) -> None:
    letter = ""
    try:
        with Memory(data, "m") as source:
            index = read_index(source)
            reader = Reader(index, source)
            for node in index.tree.values():
                if isinstance(node, TensorRef):
                    reader.array(node)
    except HoldfastError as error:
        letter = str(error)
    assert len(letter) < 2000


def test_a_model_cut_anywhere_gives_a_letter():
    for size in range(len(WHOLE)):
        survive(WHOLE[:size])


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_behind_the_head_of_a_model(data):
    survive(b"\x08\x07\x12\x01p" + data)


@settings(max_examples=500)
@given(st.integers(5, len(WHOLE) - 1), st.binary(min_size=1, max_size=4), st.integers(0, 8))
def test_a_model_with_bytes_replaced(at, new, drop):
    survive(WHOLE[:at] + new + WHOLE[at + drop :])
