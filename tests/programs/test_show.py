"""What ``holdfast show`` and ``open`` say of a program, without running it and without torch."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from models import LSTM, MLP, Two, made
from torch import nn

import holdfast
from holdfast.errors import HoldfastError
from holdfast.formats import script_code
from holdfast.spec.program import Port

NAMES = ["m.ts", "m.pt2", "m.onnx"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    model = made(Two)
    with holdfast.Run(folder / "run", background=False, model=model) as run:
        run.save(12)
    example = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    for name in NAMES:
        holdfast.export(model, example, folder / name, checkpoint=folder / "run")
    return folder


def shown(file: Path, *args: str) -> str:
    """By a process in which torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "from holdfast.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", file.name, *args],
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_show_says_what_it_takes_gives_and_where_it_comes_from(folder: Path, name: str) -> None:
    lines = shown(folder / name).splitlines()
    how = {"m.ts": "script", "m.pt2": "torch.export", "m.onnx": "torch.onnx (torch.export)"}[name]
    assert f"made   by {how}, from models.Two, weights of step 12 of {folder / 'run'}" in lines
    assert f"from   checkpoint {holdfast.open(folder / 'run').record.id}" in lines
    first = lines.index("takes  a: float32 [batch, 3]")
    assert lines[first : first + 4] == [
        "takes  a: float32 [batch, 3]",
        "takes  b: float32 [batch, 5]",
        "gives  sum: float32 [batch, 4]",
        "gives  prob: float32 [batch, 4]",
    ]
    [calls] = [line for line in lines if line.startswith("calls")]
    expected = {
        "m.ts": "calls  linear 2, add 1, softmax 1",
        "m.pt2": "calls  aten.linear 2, aten.add.Tensor 1, aten.softmax.int 1",
        "m.onnx": "calls  Gemm 2, Add 1, Softmax 1",
    }
    assert calls == expected[name]
    assert not any("holdfast_program" in line for line in lines)
    assert ("opset  ai.onnx 20" in lines) == (name == "m.onnx")


@pytest.mark.parametrize("name", NAMES)
def test_as_json(folder: Path, name: str) -> None:
    program = json.loads(shown(folder / name, "--json"))["program"]
    assert program["record"]["parent"]["step"] == 12
    assert program["inputs"][1] == {"name": "b", "dtype": "float32", "shape": ["batch", 5]}
    assert sum(program["operators"].values()) == 4
    assert program["opsets"] == ({"ai.onnx": 20} if name == "m.onnx" else {})


@pytest.mark.parametrize("name", NAMES)
def test_the_same_by_open(folder: Path, name: str) -> None:
    with holdfast.open(folder / name) as checkpoint:
        program = checkpoint.index.program
        assert program.record.source == "models.Two"
        assert "holdfast" not in checkpoint.index.metadata
        assert "holdfast.json" not in checkpoint.index.metadata


def test_files_of_others_say_what_their_graph_says(tmp_path: Path) -> None:
    model, x = made(MLP), torch.randn(2, 6)
    torch.jit.save(torch.jit.script(model), str(tmp_path / "m.ts"))
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), str(tmp_path / "m.pt2")
    )
    torch.onnx.export(
        model, (x,), str(tmp_path / "m.onnx"), dynamo=False, opset_version=13,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )  # fmt: skip
    script, graph, onnx = (holdfast.open(tmp_path / name).index.program for name in NAMES)
    assert script.inputs == (Port("x"),)
    assert script.operators["linear"] == 2
    [port] = graph.inputs
    assert (port.name, port.dtype, port.shape[1]) == ("x", "float32", 6)
    assert isinstance(port.shape[0], str)
    assert graph.operators == {"aten.linear": 2, "aten.relu": 1}
    assert onnx.inputs == (Port("x", "float32", ("n", 6)),)
    assert onnx.outputs == (Port("y", "float32", ("n", 3)),)
    assert onnx.operators == {"Gemm": 2, "Relu": 1}
    assert onnx.opsets == {"ai.onnx": 13}
    assert [each.record for each in (script, graph, onnx)] == [None] * 3


def test_operators_within_branches_are_counted(tmp_path: Path) -> None:
    class Cond(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,))

    holdfast.export(Cond(), torch.ones(3), tmp_path / "m.pt2", dynamic=None)
    operators = holdfast.open(tmp_path / "m.pt2").index.program.operators
    assert {"aten.sin", "aten.cos"} <= set(operators)
    holdfast.export(Cond(), torch.ones(3), tmp_path / "m.onnx", dynamic=None)
    assert {"Sin", "Cos", "If"} <= set(holdfast.open(tmp_path / "m.onnx").index.program.operators)


def test_a_record_that_is_broken_is_noted_and_the_file_is_read(tmp_path: Path) -> None:
    model = torch.jit.script(made(MLP))
    torch.jit.save(model, str(tmp_path / "m.ts"), _extra_files={"holdfast.json": b"{}"})
    with holdfast.open(tmp_path / "m.ts") as checkpoint:
        assert checkpoint.index.program.record is None
        assert any("record of this program cannot be read" in n for n in checkpoint.index.notes)
        assert "layers.0.weight" in [each.name for each in checkpoint.summary().tensors]


def test_a_graph_of_another_layout_is_noted(tmp_path: Path, folder: Path) -> None:
    unknown, broken = "laid out in a way that is not known", "the graph of this program cannot be"
    texts = {"{}": unknown, "[]": unknown, "not JSON": broken, '{"graph_module": 3}': unknown}
    for number, (text, said) in enumerate(texts.items()):
        path = tmp_path / f"{number}.pt2"
        with zipfile.ZipFile(folder / "m.pt2") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                data = text if name.endswith("models/model.json") else old.read(name)
                new.writestr(name, data)
        index = holdfast.open(path).index
        assert any(said in note for note in index.notes)
        assert index.program.operators == {}
        assert index.program.record is not None


@pytest.mark.parametrize("name", NAMES)
def test_changed_bytes_give_facts_or_a_letter(folder: Path, tmp_path: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    rng = random.Random(5)
    path = tmp_path / name
    read = 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            with holdfast.open(path) as checkpoint:
                checkpoint.summary().to_json()
            read += 1
        except HoldfastError:
            continue
    assert read > 50


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("class A(Module):\n  def forward(self: __torch__.A) -> Tensor:\n    return 1\n", []),
        (
            "class A(Module):\n  def forward(self: __torch__.net.A,\n    x: Tensor,\n"
            "    y: Optional[Tensor]=None) -> Tuple[Tensor, Tensor]:\n    return (x, x)\n",
            ["x", "y"],
        ),
        ("no code", []),
        ("class B(Module):\n  def forward(self: __torch__.B,\n    x: Tensor) -> Tensor:\n", []),
        ("class A(Module):\n  x : int\nclass B(Module):\n  def forward(self: B, x: T) -> T:", []),
        ("class A(Module):\n  def forward(net: __torch__.A,\n    x: Tensor) -> Tensor:\n", ["x"]),
        (
            "class A(Module):\n  def forward(self: __torch__.A,\n    "
            'how: str="x) -> y, z: int",\n    at: Dict[str, Tuple[int, int]]={},\n'
            "    x: Tensor=CONSTANTS.c0) -> Tensor:\n",
            ["how", "at", "x"],
        ),
    ],
)
def test_arguments_of_forward(code: str, names: list[str]) -> None:
    assert [port.name for port in script_code.ports(code, "__torch__.A")] == names


def test_a_name_from_a_file_is_shown_on_one_line(tmp_path: Path) -> None:
    name = "x\n\x1b[31m" + "long" * 100
    holdfast.export(
        made(MLP), torch.ones(2, 6), tmp_path / "m.ts", input_names=[name], output_names=["y"]
    )
    text = shown(tmp_path / "m.ts")
    assert "\x1b" not in text
    [line] = [line for line in text.splitlines() if line.startswith("takes")]
    assert len(line) < 250


def test_nested_outputs_have_their_names(tmp_path: Path) -> None:
    holdfast.export(made(LSTM), torch.randn(2, 4, 5), tmp_path / "m.ts")
    found: Any = holdfast.open(tmp_path / "m.ts").index.program
    assert [port.name for port in found.outputs] == ["output.0", "output.1.0", "output.1.1"]
