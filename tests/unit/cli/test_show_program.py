"""``holdfast show`` of programs, to the letter."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from holdfast.spec.program import Port, ProgramInfo, ProgramRecord, encode

RECORD = ProgramRecord(
    "script",
    (Port("x", "float32", ("batch", 4)),),
    (Port("logits", "float32", ("batch", 2)),),
    source="nets.Net",
    parent={"id": "0" * 32, "step": 12, "file": "runs/iris"},
    is_training=True,
)
EXTRA = {"holdfast.json": encode(RECORD), "note.txt": "hello"}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x)) + self.fc(x)


def script() -> None:
    torch.jit.save(torch.jit.script(Net()), "net.ts", _extra_files=EXTRA)


def graph() -> None:
    program = torch.export.export(Net(), (torch.zeros(3, 4),))
    torch.export.save(program, "net.pt2", extra_files=EXTRA)


def graph_of_others() -> None:
    torch.export.save(torch.export.export(Net(), (torch.zeros(3, 4),)), "net.pt2")


def onnx_of_others() -> None:
    ports = [helper.make_tensor_value_info(f"x{n}", 1, ["batch", 4, None]) for n in range(25)]
    names = [name for n in range(12) for name in [f"Op{n}"] * (12 - n)]
    nodes = [helper.make_node(name, ["x0"], [], domain="com.own") for name in names]
    weight = helper.make_tensor("weight\x1b[2J", 1, [2], [1.0, 2.0])
    made = helper.make_graph(nodes, "g", ports, ports[:1], [weight])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.own", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), "net.onnx")


MAKERS = {
    "show-script": (script, "net.ts"),
    "show-exported": (graph, "net.pt2"),
    "show-exported-of-others": (graph_of_others, "net.pt2"),
    "show-onnx-of-others": (onnx_of_others, "net.onnx"),
}


@pytest.fixture(params=MAKERS)
def made(request, tmp_path, monkeypatch) -> tuple[str, str]:
    monkeypatch.chdir(tmp_path)
    make, file = MAKERS[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make()
    return request.param, file


def test_show_a_program(made, holdfast, golden) -> None:
    name, file = made
    result = holdfast("show", file)
    assert (result.exit_code, result.stderr) == (0, "")
    # The bytes of a program, and the name of the class in a test, are another thing.
    shown = re.sub(r"(torchscript|exported|onnx), [0-9.]+ KiB", r"\1, … KiB", result.stdout)
    golden(
        name, re.sub(r"__torch__[\w.]+", "__torch__.…", re.sub(r"code/[\w./]+", "code/…", shown))
    )


def test_show_a_program_as_json(made, holdfast) -> None:
    program = json.loads(holdfast("show", made[1], "--json").stdout)["program"]
    assert set(program) == {"inputs", "outputs", "operators", "opsets", "record"}
    if made[0] in ("show-script", "show-exported"):
        assert program["record"] == RECORD.to_json()
        assert program["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]


def test_what_is_no_program_has_none(run, holdfast) -> None:
    assert json.loads(holdfast("show", "runs/a", "--json").stdout)["program"] is None


def test_the_facts_as_json() -> None:
    info = ProgramInfo((Port("x"),), (Port("y", "int64", (None, "n", 3)),), {"add": 2}, {"": 1})
    assert info.to_json() == {
        "inputs": [{"name": "x", "dtype": None, "shape": None}],
        "outputs": [{"name": "y", "dtype": "int64", "shape": [None, "n", 3]}],
        "operators": {"add": 2},
        "opsets": {"": 1},
        "record": None,
    }


def test_names_of_strangers_stay_on_their_line(tmp_path: Path, holdfast) -> None:
    name = "x\n\x1b[2J" + "y" * 500
    port = helper.make_tensor_value_info(name, 1, [name])
    node = helper.make_node(name, [], [], domain=name)
    made = helper.make_graph([node], "g", [port], [])
    onnx.save(helper.make_model(made), tmp_path / "net.onnx")
    lines = holdfast("show", str(tmp_path / "net.onnx")).stdout.splitlines()
    [takes] = [line for line in lines if line.startswith("takes")]
    [calls] = [line for line in lines if line.startswith("calls")]
    assert all("\x1b" not in line and len(line) < 200 for line in (takes, calls))
