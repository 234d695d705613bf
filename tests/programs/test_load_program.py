"""A program that is loaded: what it says of itself, what it takes, and whose code it may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from models import MLP, Two, called, made
from torch import nn

import holdfast
from holdfast.errors import FormatError, HoldfastError, UntrustedError, UsageError

KINDS = {"model.ts": "torchscript", "model.pt2": "torch.export", "model.onnx": "onnx"}


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("programs") / request.param
    example = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    holdfast.export(made(Two), example, path)
    return path


def test_it_says_what_it_takes_and_gives(written: Path) -> None:
    program = holdfast.load_program(written)
    assert program.format == KINDS[written.name]
    assert [str(port) for port in program.inputs] == [
        "a: float32 [batch, 3]",
        "b: float32 [batch, 5]",
    ]
    assert [str(port) for port in program.outputs] == [
        "sum: float32 [batch, 4]",
        "prob: float32 [batch, 4]",
    ]
    assert program.metadata["source"] == "models.Two"
    assert program.metadata["versions"]["torch"] == torch.__version__
    assert repr(program) == (
        f"<{program.format} program {written.name}: (a: float32 [batch, 3], b: float32 [batch, 5])"
        " -> (sum: float32 [batch, 4], prob: float32 [batch, 4])>"
    )


def test_by_position_by_name_or_as_a_dict(written: Path) -> None:
    program = holdfast.load_program(written)
    a, b = torch.randn(2, 3), torch.randn(2, 5)
    expected = called(made(Two), (a, b))
    for found in (program(a, b), program(a, b=b), program(b=b, a=a), program({"b": b, "a": a})):
        assert list(found) == ["sum", "prob"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


BAD_CALLS = [
    ((), {"a": torch.ones(2, 3)}, "other inputs than it takes", "wanted a, b, found a"),
    ((), {"a": torch.ones(2, 3), "c": torch.ones(1)}, "other inputs", "found a, c"),
    ((torch.ones(2, 3),) * 3, {}, "other inputs", "found 3 by position"),
    ((torch.ones(2, 3),), {"a": torch.ones(2, 3)}, "other inputs", "found 1 by position, a"),
    ((torch.ones(2, 3), torch.ones(2, 4)), {}, "another shape", "found [2, 4]"),
    ((torch.ones(2, 3), torch.ones(3, 5)), {}, "another shape", "(batch is 2 in a)"),
    ((torch.ones(2, 3), torch.ones(5)), {}, "another shape", "found [5]"),
    ((torch.ones(2, 3), torch.ones(2, 5).double()), {}, "another dtype", "wanted float32, found"),
    ((torch.ones(2, 3), [1.0]), {}, "tensors or NumPy arrays", "found builtins.list"),
]


@pytest.mark.parametrize(("args", "kwargs", "what", "more"), BAD_CALLS)
def test_what_it_does_not_take_is_said_before_the_runtime_sees_it(
    written: Path, args: Any, kwargs: Any, what: str, more: str
) -> None:
    with pytest.raises(UsageError) as caught:
        holdfast.load_program(written)(*args, **kwargs)
    assert what in str(caught.value)
    assert more in str(caught.value)


def test_code_of_others_needs_trust(written: Path) -> None:
    """In a process that did not export it; ONNX is no code of Python's."""
    code = (
        "import sys, holdfast\n"
        "try:\n"
        "    print(holdfast.load_program(sys.argv[1]).format)\n"
        "except holdfast.errors.UntrustedError as error:\n"
        "    print(error)\n"
        "print(holdfast.load_program(sys.argv[1], trust=True).format)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(written)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    kind = KINDS[written.name]
    first, _, last = done.stdout.strip().rpartition("\n")
    assert last == kind
    if kind == "onnx":
        assert first == "onnx"
    else:
        assert first == (
            "this file is a program: running it runs code that is in the file\n"
            f"  in {written}\n"
            "  found a file that this process did not export\n"
            "  If you know who made it: load_program(path, trust=True). Its weights can be read "
            "without running it (holdfast.open, load_state); ONNX files need no trust."
        )


def test_a_file_that_was_changed_since_its_export_is_of_others(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    holdfast.export(made(MLP), torch.ones(2, 6), path)
    holdfast.load_program(path)
    other = torch.jit.script(made(MLP))
    torch.jit.save(other, str(path))
    with pytest.raises(UntrustedError):
        holdfast.load_program(path)


def test_a_truncated_one_is_said_to_be(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut"
        cut.write_bytes(data[:size])
        with pytest.raises(HoldfastError):
            holdfast.load_program(cut, trust=True)


def test_what_is_no_program_is_said_to_be_none(tmp_path: Path) -> None:
    holdfast.save({"w": torch.ones(3)}, tmp_path / "w.pt")
    with pytest.raises(FormatError) as caught:
        holdfast.load_program(tmp_path / "w.pt", trust=True)
    assert str(caught.value) == (
        "this file is no program\n"
        f"  in {tmp_path / 'w.pt'}\n"
        "  wanted TorchScript, torch.export (.pt2) or ONNX, found torch_zip\n"
        "  It holds weights alone: holdfast.load_model(path, model)."
    )


def test_the_suffix_does_not_matter(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.bin"
    other.write_bytes(written.read_bytes())
    assert holdfast.load_program(other, trust=True).format == KINDS[written.name]


def test_a_torchscript_program_can_be_trained_further(tmp_path: Path) -> None:
    model = made(MLP)
    holdfast.export(model, torch.ones(2, 6), tmp_path / "m.ts")
    module = holdfast.load_program(tmp_path / "m.ts").module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in module.parameters()]
    module.train()
    module(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()
    assert not all(map(torch.equal, before, module.parameters()))
    torch.testing.assert_close(before, list(model.parameters()))


def test_training_mode_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report = holdfast.export(model, torch.randn(8, 4), tmp_path / "train.ts", train=True)
    assert report.record.is_training
    assert holdfast.load_program(tmp_path / "train.ts").module.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    holdfast.export(model, torch.randn(8, 4), tmp_path / "eval.ts")
    assert not holdfast.load_program(tmp_path / "eval.ts").module.training
    assert model.training


def test_an_onnx_program_is_no_module_and_says_where_it_runs(tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.onnx", opset=17)
    program = holdfast.load_program(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert program.providers == ["CPUExecutionProvider"]
    with pytest.raises(UsageError, match="an ONNX program is no module"):
        program.module  # noqa: B018
    with pytest.raises(UsageError) as caught:
        holdfast.load_program(tmp_path / "m.onnx", providers=["TensorrtExecutionProvider"])
    assert "CPUExecutionProvider" in str(caught.value)
    holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.ts")
    with pytest.raises(UsageError, match="this is no ONNX file"):
        holdfast.load_program(tmp_path / "m.ts", providers=["CPUExecutionProvider"])


def test_programs_of_others_run_too(tmp_path: Path) -> None:
    """Without a record: names and shapes are what the file itself says."""
    import onnx

    model, x = made(MLP), torch.randn(3, 6)
    torch.jit.save(torch.jit.script(model), str(tmp_path / "m.ts"))
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), str(tmp_path / "m.pt2")
    )
    onnx.save(_add(), tmp_path / "m.onnx")
    for name in ("m.ts", "m.pt2"):
        program = holdfast.load_program(tmp_path / name, trust=True)
        assert [port.name for port in program.inputs] == ["x"]
        torch.testing.assert_close(program(x), called(model, x))
        assert program.metadata == {}
    add = holdfast.load_program(tmp_path / "m.onnx")
    assert [str(port) for port in add.inputs] == ["a: int64 [n]", "b: int64 [n]"]
    assert add(np.array([1, 2]), np.array([3, 4])).tolist() == [4, 6]


def _add() -> Any:
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(n, TensorProto.INT64, ["n"]) for n in "abc"]
    node = helper.make_node("Add", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "add", ports[:2], ports[2:])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("name", ["m.ts", "m.pt2"])
def test_bfloat16_goes_in_and_out_as_arrays(tmp_path: Path, name: str) -> None:
    model = made(MLP).bfloat16()
    holdfast.export(model, torch.randn(2, 6, dtype=torch.bfloat16), tmp_path / name)
    x = torch.randn(3, 6, dtype=torch.bfloat16)
    array = x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    found = holdfast.load_program(tmp_path / name)(array)
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(
        found.astype(np.float32), called(model, x).float().numpy(), rtol=4e-2, atol=1e-2
    )
