"""What files of others say of a program: kinds of ports, symbols, classes of one name, age."""

from __future__ import annotations

import io
import warnings
import zipfile

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from holdfast.formats import read_index
from holdfast.formats.exported_graph import calls_of
from holdfast.io.source import open_source
from holdfast.spec.index import Index
from holdfast.spec.program import Port, ProgramInfo, ProgramRecord, encode

RECORD = ProgramRecord("script", (Port("x", "float32", ("batch", 3)),), (Port("y"),))


def index_of(data: bytes) -> Index:
    with open_source(io.BytesIO(data)) as source:
        return read_index(source)


def info_of(data: bytes) -> ProgramInfo:
    program = index_of(data).program
    assert program is not None
    return program


# ---- ONNX


def model(inputs=(), outputs=(), nodes=(), props=(), **options) -> bytes:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), **options)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    helper.set_model_props(made, dict(props))
    data: bytes = made.SerializeToString()
    return data


def value(kind: int, shape: list[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", kind, shape)


@pytest.mark.parametrize(
    ("given", "port"),
    [
        (value(TensorProto.FLOAT, ["n", 3, None]), "x: float32 [n, 3, ?]"),
        (value(TensorProto.BFLOAT16, []), "x: bfloat16 []"),
        (value(TensorProto.BOOL, None), "x: bool"),
        (value(TensorProto.INT4, [2]), "x: int4 [2]"),
        (value(TensorProto.STRING, [2]), "x: string [2]"),
        (value(99, [2]), "x: any dtype [2]"),
        (value(TensorProto.FLOAT, [-1, 2]), "x: float32 [?, 2]"),
        (onnx.ValueInfoProto(name="x"), "x: any tensor"),
        (helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [2]), "x: sequence"),
        (
            helper.make_sparse_tensor_value_info("x", TensorProto.INT64, [5]),
            "x: int64 [5]",
        ),
        (
            helper.make_value_info(
                "x",
                helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2])),
            ),
            "x: optional",
        ),
    ],
)
def test_inputs_and_outputs_of_every_kind(given, port) -> None:
    info = info_of(model([given], [given]))
    assert [str(each) for each in (*info.inputs, *info.outputs)] == [port, port]


def test_initialisers_are_no_inputs_and_domains_are_told() -> None:
    inner = helper.make_graph([helper.make_node("Abs", ["x"], ["z"])], "then", [], [])
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft"),
        helper.make_node("Abs", ["y"], ["a"], domain="ai.onnx"),
        helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    named = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    info = info_of(model([value(1, [1]), named], [value(1, [1])], nodes, initializer=[weight]))
    assert [port.name for port in info.inputs] == ["x"]
    assert info.operators == {"com.microsoft.FusedMatMul": 1, "Abs": 3, "If": 1}
    assert info.opsets == {"ai.onnx": 21}


def test_the_record_wins_and_leaves_the_metadata() -> None:
    index = index_of(model([value(1, [2])], props={"holdfast": encode(RECORD), "mine": "1"}))
    assert index.program is not None
    assert index.program.record == RECORD
    assert index.program.inputs == RECORD.inputs
    assert (index.metadata["mine"], "holdfast" in index.metadata) == ("1", False)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"holdfast_program": 1}'])
def test_a_record_that_is_none_is_noted_and_stays_text(text) -> None:
    index = index_of(model([value(1, [2])], props={"holdfast": text}))
    assert index.program == ProgramInfo((Port("x", "float32", (2,)),), opsets={"ai.onnx": 21})
    assert index.metadata["holdfast"] == text
    assert [note[:42] for note in index.notes] == ["the record of this program cannot be read:"]


# ---- torch.export


def graph(sizes: list[dict], *, arg: dict | None = None, nodes: list | None = None) -> dict:
    arg = {"as_tensor": {"name": "x"}} if arg is None else arg
    values = {"x": {"dtype": 7, "sizes": sizes}}
    signature = {"input_specs": [{"user_input": {"arg": arg}}], "output_specs": []}
    body = {"tensor_values": values, "nodes": nodes or []}
    return {"graph_module": {"graph": body, "signature": signature}}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Symbol('s31', positive=True, integer=True)", "s31"),
        ("Symbol('s0')", "s0"),
        ("s0", "s0"),
        ("Mul(Integer(2), Symbol('s0', integer=True))", None),
        ("Symbol('s0') + Symbol('s1')", None),
        ("2*s0", None),
        ("", None),
        ("Symbol('" + "s" * 200 + "')", None),
    ],
)
def test_a_size_has_the_name_of_its_symbol(text, name) -> None:
    (port,), _, _ = calls_of(graph([{"as_expr": {"expr_str": text}}, {"as_int": 4}]))
    assert port == Port("x", "float32", (name, 4))


@pytest.mark.parametrize("number", [-1, 1 << 63, True, "4", float("inf"), float("nan"), 1.5, []])
def test_a_size_that_is_no_size(number) -> None:
    with pytest.raises(ValueError, match="a size of"):
        calls_of(graph([{"as_int": number}]))


def test_numbers_are_inputs_and_constants_are_none() -> None:
    (port,), _, _ = calls_of(graph([], arg={"as_sym_int": {"as_name": "s7"}}))
    assert str(port) == "s7: int"
    for arg in ({"as_sym_int": {"as_int": 3}}, {"as_int": 3}, {"as_none": True}):
        assert calls_of(graph([], arg=arg))[0] == ()


def exported() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            torch.nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes=({0: batch},)
        )
        extra = {"holdfast.json": encode(RECORD)}
        torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(exported())) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes], root: str = "a/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(root + name, data)
    return buffer.getvalue()


def test_of_several_programs_the_record_alone_is_told(members) -> None:
    info = info_of(packed({**members, "models/other.json": members["models/model.json"]}))
    assert (info.record, info.inputs, dict(info.operators)) == (RECORD, RECORD.inputs, {})


def test_a_graph_above_the_limit_is_not_parsed(members) -> None:
    text = members["models/model.json"] + b" " * (64 << 20)
    index = index_of(packed({**members, "models/model.json": text}))
    assert index.notes[-1] == "its graph is too long: what it calls is not counted"
    assert index.program is not None
    assert index.program.record == RECORD


def test_a_damaged_graph_and_a_damaged_record_are_noted(members) -> None:
    data = packed(members)
    for right, wrong, said in (
        (b'"graph_module"', b'"graph_modulf"', "the graph of this program is damaged"),
        (b'"batch"', b'"patch"', "the record of this program cannot be read"),
    ):
        assert data.count(right) == 1
        index = index_of(data.replace(right, wrong))
        assert said in index.notes[-1]
        assert "weight" in index.tree
    assert index.metadata["holdfast.json"].endswith(" bytes, damaged)")
    assert index.program is not None
    assert index.program.inputs[0].dtype == "float32"


def test_files_of_torch_before_2_8_have_their_facts_too(members) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2, 3)}, buffer)
    old = {
        "serialized_exported_program.json": members["models/model.json"],
        "serialized_state_dict.pt": buffer.getvalue(),
        "extra_files/note.txt": b"hello",
    }
    index = index_of(packed(old, root=""))
    assert index.metadata == {"note.txt": "hello"}
    assert index.program is not None
    assert index.program.operators == {"aten.linear": 1}
    assert str(index.program.inputs[0]).endswith(", 3]")
    record = {"extra_files/holdfast.json": encode(RECORD).encode()}
    assert info_of(packed({**old, **record}, root="")).record == RECORD


# ---- TorchScript


class Inner(torch.nn.Module):
    def forward(self, inner: torch.Tensor) -> torch.Tensor:
        return inner + 1


def named_alike() -> type[torch.nn.Module]:
    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = _Inner()

        def forward(net, x: torch.Tensor, many: int = 3, y: torch.Tensor | None = None):  # noqa: N805
            return net.inside(x) * many

    return Inner


_Inner = Inner


def scripted(program: torch.nn.Module, **extra: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(program), buffer, _extra_files=extra)
    return buffer.getvalue()


def test_the_arguments_are_those_of_the_main_class() -> None:
    info = info_of(scripted(named_alike()()))
    assert [str(port) for port in info.inputs] == ["x: any tensor", "many: int", "y: any tensor"]
    assert info.operators == {"mul": 1, "add": 1}
    assert info.outputs == ()


def test_the_record_of_a_script_wins() -> None:
    index = index_of(scripted(Inner(), **{"holdfast.json": encode(RECORD), "note": "1"}))
    assert index.program is not None
    assert index.program.inputs == RECORD.inputs
    assert index.metadata == {"note": "1"}


def test_code_that_is_damaged_is_noted() -> None:
    with zipfile.ZipFile(io.BytesIO(scripted(Inner()))) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    data = packed(members)
    assert data.count(b"torch.add(") == 1
    index = index_of(data.replace(b"torch.add(", b"torch.sub("))
    assert index.notes[-1].endswith("is not counted: the code of this program is damaged")
    assert index.program == ProgramInfo()
