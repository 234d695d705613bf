"""Graphs, code and records made to mislead or to take for ever: a note or a letter for each."""

from __future__ import annotations

import io
import json
import time
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.hostile.conftest import Assembler
from tests.hostile.test_hostile_programs import (
    EXPORT_MEMBERS,
    NO_CONSTANTS,
    SCRIPT_MEMBERS,
    archive,
    module,
    mutated,
)

from holdfast.errors import FormatError, HoldfastError
from holdfast.formats import onnx_graph, script_code
from holdfast.report.summary import summarize
from holdfast.spec.program import Port, ProgramRecord, decode, encode

ASM = Assembler()
GRAPH = "models/model.json"
RECORD = encode(
    ProgramRecord(
        "script",
        (Port("x", "float32", ("batch", 3, None)),),
        (Port("y"),),
        structure={"tuple": [[0], {"value": None}]},
        parent={"id": "0", "step": 12, "file": "a.pt"},
    )
)


def as_json(data: bytes) -> str:
    """What ``show --json`` prints, which has to be plain JSON in UTF-8."""
    summary = summarize(ASM.look(data)).to_json()
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def survive(data: bytes) -> None:
    letter = ""
    try:
        as_json(data)
    except HoldfastError as error:
        letter = str(error)
    assert len(letter) < 20_000


# ---- records


def changed(**values: object) -> str:
    return json.dumps({**json.loads(RECORD), **values})


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels else []


@pytest.mark.parametrize(
    "text",
    [
        changed(structure=float("nan")),
        changed(parent={"step": float("inf")}),
        changed(source="\ud800"),
        changed(versions={"\udfff": "1"}),
        changed(structure=nested(200)),
        RECORD.replace('"structure": ', '"structure": ' + "[" * 5000 + "]" * 5000 + ', "x": '),
        RECORD.replace("12", "1" * 5000),
        changed(inputs=[{"name": "x", "dtype": None, "shape": [-1]}]),
        changed(inputs=[{"name": "x", "dtype": None, "shape": [1 << 63]}]),
        changed(inputs=[{"name": "x", "dtype": None, "shape": [True]}]),
        changed(inputs=[{"name": "x", "dtype": None, "shape": "abc"}]),
        changed(inputs=[{"name": "x", "dtype": 7, "shape": None}]),
        changed(inputs=["x"]),
        changed(inputs={}),
        changed(keywords=[1]),
        changed(method=None),
        changed(parent=[]),
    ],
    ids=lambda text: text[:60],
)
def test_records_that_lie_are_noted(text) -> None:
    with pytest.raises(FormatError, match="the record of this program cannot be read"):
        decode(text)
    data = archive({**SCRIPT_MEMBERS, "extra/holdfast.json": text.encode()})
    index = ASM.look(data)
    assert index.program.record is None
    assert any("record of this program cannot be read" in note for note in index.notes)
    as_json(data)


BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@BOUNDED
@given(mutated(RECORD.encode()))
def test_changed_records_with_a_right_checksum(data) -> None:
    survive(archive({**SCRIPT_MEMBERS, "extra/holdfast.json": data}))


# ---- torch.export


def with_graph(text: bytes) -> bytes:
    return archive({**EXPORT_MEMBERS, GRAPH: text})


@BOUNDED
@given(mutated(EXPORT_MEMBERS[GRAPH]))
def test_changed_graphs_with_a_right_checksum(data) -> None:
    survive(with_graph(data))


TEXTS = st.sampled_from([json.dumps(each) for each in ([], {}, None, -1, "x", [[]], True, 1.5)])


@BOUNDED
@given(st.data())
def test_graphs_with_other_values_in_any_place(data) -> None:
    values = json.loads(EXPORT_MEMBERS[GRAPH])
    at = values
    while isinstance(at, dict | list) and at:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(keys))
        if not at[key] or not isinstance(at[key], dict | list) or data.draw(st.booleans()):
            at[key] = json.loads(data.draw(TEXTS))
            break
        at = at[key]
    survive(with_graph(json.dumps(values).encode()))


@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN", "-1", "9" * 30, '"4"', "true"])
def test_sizes_that_are_none_are_noted(number) -> None:
    right = b'{"as_int": 4}'
    assert right in EXPORT_MEMBERS[GRAPH]
    text = EXPORT_MEMBERS[GRAPH].replace(right, b'{"as_int": %s}' % number.encode())
    index = ASM.look(with_graph(text))
    assert "laid out in a way that is not known" in index.notes[-1]
    assert "a.weight" in index.tree


def test_expressions_are_text() -> None:
    evil = '{"as_expr": {"expr_str": "__import__(\'os\').system(\'touch evil\')"}}'
    text = EXPORT_MEMBERS[GRAPH].replace(b'{"as_int": 4}', evil.encode())
    assert ASM.look(with_graph(text)).program.inputs == (Port("x", "float32", (None, 2)),)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"graph_module": ' * 100_000, b"\xff", b""])
def test_graphs_that_are_none(text) -> None:
    index = ASM.look(with_graph(text))
    assert index.notes[-1] == "its graph is not read: the graph of this program cannot be read"


# ---- TorchScript


def script(code: bytes, *, deflate: bool = True) -> bytes:
    members = {"data.pkl": ASM.pickle(module()), "constants.pkl": NO_CONSTANTS}
    code_name = "code/__torch__.py"
    return archive(
        {**members, "version": b"3\n", code_name: code}, deflate=(code_name,) if deflate else ()
    )


LINES = {
    "many heads": "  def forward(self: Net\n",
    "many classes": "class Net(\n",
    "open strings": "class Net(Module):\n  def forward(" + '"' + '\\"' * 50 + "\n",
    "brackets": "class Net(Module):\n  def forward(" + "[" * 200 + "\n",
    "long names": "torch." + "a" * 1000 + "\n",
    "steps": "ops.ops.ops.ops.torch.torch\n",
    "spaces": "class Net(Module):\n  def forward(self: Net," + " " * 1000 + "\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_code_takes_as_long_as_it_is(line) -> None:
    data = script(line.encode() * ((4 << 20) // len(line)))
    began = time.process_time()
    ASM.look(data)
    assert time.process_time() - began < 10  # what is quadratic takes hours


def test_one_line_without_end_takes_as_long_as_it_is() -> None:
    head = "class Net(Module):\n  def forward("
    for piece in ('\\"', "'", ",", "(", "a: b, ", "torch.", "ops.a"):
        began = time.process_time()
        ASM.look(script((head + piece * ((2 << 20) // len(piece))).encode()))
        assert time.process_time() - began < 10


def test_too_much_code_is_not_unpacked(monkeypatch) -> None:
    monkeypatch.setattr(script_code, "MOST_CODE", 1000)
    index = ASM.look(script(b"torch.add(" * 101))
    assert index.program.operators == {}
    said = "code/__torch__.py is too long: what it calls is not counted"
    assert index.notes[-1] == said


def test_code_beside_a_pickle_of_no_module() -> None:
    members = {"data.pkl": ASM.pickle({}), "constants.pkl": NO_CONSTANTS, "version": b"3\n"}
    with pytest.raises(FormatError, match="holds no module"):
        ASM.look(archive({**members, "code/a.py": b"torch.add("}))


CODE = next(name for name in SCRIPT_MEMBERS if name.endswith("programs.py"))


@BOUNDED
@given(mutated(SCRIPT_MEMBERS[CODE]))
def test_changed_code_with_a_right_checksum(data) -> None:
    survive(archive({**SCRIPT_MEMBERS, CODE: data}))


# ---- ONNX


def onnx_model() -> bytes:
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, None]),
        helper.make_tensor_sequence_value_info("s", TensorProto.INT64, [2]),
    ]
    inner = helper.make_graph([helper.make_node("Abs", ["x"], ["z"])], "g", [], ports[:1])
    nodes = [helper.make_node("Mine", ["x"], ["y"], domain="com.own", then_branch=inner)]
    made = helper.make_model(helper.make_graph(nodes, "g", ports, ports[:1]))
    helper.set_model_props(made, {"holdfast": RECORD, "other": "1"})
    data: bytes = made.SerializeToString()
    return data


ONNX = onnx_model()


@settings(max_examples=500)
@given(st.integers(5, len(ONNX) - 1), st.binary(min_size=1, max_size=4), st.integers(0, 8))
def test_an_onnx_graph_with_bytes_replaced(at, new, drop) -> None:
    survive(ONNX[:at] + new + ONNX[at + drop :])


def test_an_onnx_graph_cut_anywhere() -> None:
    for size in range(len(ONNX)):
        survive(ONNX[:size])


def test_ports_and_operators_without_end(monkeypatch) -> None:
    monkeypatch.setattr(onnx_graph, "_MOST_PORTS", 10)
    monkeypatch.setattr(onnx_graph, "_MOST_OPERATORS", 10)
    monkeypatch.setattr(onnx_graph, "_LONGEST_NAME", 20)
    ports = [helper.make_tensor_value_info(f"x{n}" + "x" * 50, 1, [1]) for n in range(15)]
    nodes = [helper.make_node(f"Op{n % 15}", [], []) for n in range(30)]
    data = helper.make_model(helper.make_graph(nodes, "g", ports, ports)).SerializeToString()
    program = ASM.look(data).program
    assert (len(program.inputs), len(program.outputs), len(program.operators)) == (10, 10, 10)
    assert set(program.operators.values()) == {2}
    assert {len(port.name) for port in program.inputs} == {20}


def test_the_assembled_files_are_what_they_should_be() -> None:
    with zipfile.ZipFile(io.BytesIO(script(b"class Net(Module):\n"))) as made:
        assert "a/code/__torch__.py" in made.namelist()
    assert ASM.look(with_graph(EXPORT_MEMBERS[GRAPH])).program.operators["aten.linear"] == 2
    assert ASM.look(ONNX).program.record is not None
