"""Each model in each format, at three batch sizes: equal to the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import MATRIX, called, made

import holdfast
from holdfast.programs.nesting import flatten

#: The files, with the options they are made by.
FORMATS: dict[str, dict[str, Any]] = {
    "script.ts": {},
    "script-frozen.ts": {"freeze": True},
    "trace.ts": {"method": "trace"},
    "trace-frozen.ts": {"method": "trace", "freeze": True},
    "program.pt2": {},
    "model.onnx": {},
    "model-old.onnx": {"opset": 13},
}
#: The first operator set that has all of a model, where that is a later one.
LATER = {"encoder": 14}


@pytest.fixture(
    scope="module", params=[(name, file) for name in MATRIX for file in FORMATS], ids="-".join
)
def cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name, file = request.param
    kind, example = MATRIX[name]
    model, path = made(kind), tmp_path_factory.mktemp("program") / file
    options = dict(FORMATS[file])
    if "opset" in options:
        options["opset"] = LATER.get(name, options["opset"])
    report = holdfast.export(model, example(4), path, **options)
    assert report.opset == options.get("opset", report.opset)
    return model, example, path, report


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_it_gives_what_the_model_gives(cell: Any, batch: int) -> None:
    model, example, path, _ = cell
    torch.manual_seed(batch)
    inputs = example(batch)
    program = holdfast.load_program(path)
    found = called(program, inputs)
    _, expected, structure = flatten(called(model, inputs))
    _, given, other = flatten(found)
    assert other == structure
    for want, have in zip(expected, given, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


def test_arrays_in_and_arrays_out(cell: Any) -> None:
    model, example, path, _ = cell
    inputs = example(3)
    program = holdfast.load_program(path)
    if isinstance(inputs, dict):
        found = program({name: value.numpy() for name, value in inputs.items()})
    else:
        found = program(inputs.numpy())
    _, expected, _ = flatten(called(model, inputs))
    arrays = _leaves(found)
    assert all(isinstance(array, np.ndarray) for array in arrays)
    for want, have in zip(expected, arrays, strict=True):
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-4, atol=1e-5)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, tuple | list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def test_the_report_says_what_was_compared(cell: Any) -> None:
    model, example, path, report = cell
    cases = report.checked.cases
    assert {"the example", "random values", "batch=1", "batch=3", "batch=7"} <= set(cases)
    names, tensors, _ = flatten(called(model, example(4)))
    assert [each.name for each in report.checked.outputs] == names
    assert all(each.absolute < 1e-5 for each in report.checked.outputs)
    assert report.nbytes == path.stat().st_size
    assert [port.dtype for port in report.outputs] == ["float32"] * len(tensors)
    assert all("batch" in port.shape for port in (*report.inputs, *report.outputs))
    assert [str(file.name) for file in path.parent.iterdir()] == [path.name]


def test_its_ports_are_in_the_file(cell: Any) -> None:
    _, _, path, report = cell
    program = holdfast.load_program(path)
    assert program.inputs == report.inputs
    assert program.outputs == report.outputs
    assert program.metadata == report.record.to_json()


def test_the_model_is_as_it_was_before(tmp_path: Path) -> None:
    kind, example = MATRIX["cnn"]
    model = made(kind).train()
    model.norm.eval()  # not all in one mode
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = example(2)
    rng = torch.get_rng_state()
    for file, options in FORMATS.items():
        holdfast.export(model, inputs, tmp_path / file, **options)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), rng)


def test_the_same_model_from_training_and_from_evaluation_mode(tmp_path: Path) -> None:
    """What is exported from a model in training mode computes what it does in evaluation."""
    kind, example = MATRIX["cnn"]
    model, inputs = made(kind), example(3)
    expected = called(model, inputs)
    for file, options in FORMATS.items():
        model.train()
        holdfast.export(model, example(2), tmp_path / file, **options)
        found = holdfast.load_program(tmp_path / file)(inputs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
