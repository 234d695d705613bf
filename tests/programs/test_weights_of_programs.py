"""Weights go both ways: out of a program into a file, or into a live model."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from models import CNN, MATRIX, MLP, made
from torch import nn

import holdfast
from holdfast.errors import HoldfastError, MismatchError


@pytest.mark.parametrize(
    ("name", "cell"),
    [("m.ts", "mlp"), ("m.ts", "cnn"), ("m.pt2", "mlp"), ("m.pt2", "cnn"), ("m.onnx", "mlp")],
)
def test_out_of_a_program_into_safetensors(tmp_path: Path, name: str, cell: str) -> None:
    kind, example = MATRIX[cell]
    model = made(kind)
    holdfast.export(model, example(2), tmp_path / name)
    holdfast.convert(tmp_path / name, tmp_path / "weights.safetensors")
    found = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    state = model.state_dict()
    assert set(found) == set(state)
    assert all(torch.equal(found[each], state[each]) for each in state)


def test_onnx_folds_a_batch_norm_into_what_is_before_it(tmp_path: Path) -> None:
    """Said in docs/programs.md: such weights are not the model's any more."""
    model = made(CNN)
    holdfast.export(model, torch.randn(2, 3, 9, 9), tmp_path / "m.onnx")
    holdfast.convert(tmp_path / "m.onnx", tmp_path / "weights.safetensors")
    found = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert not any(name.startswith("norm") for name in found)
    assert not torch.equal(found["conv.weight"], model.state_dict()["conv.weight"])


@pytest.mark.parametrize("name", ["m.ts", "trace.ts", "m.pt2"])
def test_out_of_a_program_into_a_live_model(tmp_path: Path, name: str) -> None:
    model, other = made(CNN), CNN()
    options = {"method": "trace"} if name == "trace.ts" else {}
    holdfast.export(model, torch.randn(2, 3, 9, 9), tmp_path / name, **options)
    holdfast.load_state(tmp_path / name, model=other)
    for want, have in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(want, have)


def test_a_frozen_one_has_no_names_and_is_refused(tmp_path: Path) -> None:
    model = made(MLP)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    holdfast.export(model, torch.ones(2, 6), tmp_path / "m.ts", freeze=True)
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(tmp_path / "m.ts", model=model)
    assert caught.value.what == (
        "this program is frozen: its weights are constants of its code, and have no names"
    )
    assert "without freeze=True" in str(caught.value.cure)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_is_run_to_read_weights(tmp_path: Path) -> None:
    """In a process that did not export it, without trust."""
    import subprocess
    import sys

    holdfast.export(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "m.ts")
    code = (
        "import sys, torch, holdfast\n"
        "model = torch.nn.Linear(2, 2)\n"
        "holdfast.load_model(sys.argv[1], model)\n"
        "print(len(holdfast.open(sys.argv[1]).tree))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.ts")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_truncated_program_gives_no_weights(tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.pt2")
    data = (tmp_path / "m.pt2").read_bytes()
    (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
    with pytest.raises(HoldfastError):
        holdfast.convert(tmp_path / "cut.pt2", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()
