"""What goes wrong in silence elsewhere: each trap has its message."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from models import CNN, MLP, Branching, Encoder, Fixed, called, made
from torch import nn

import holdfast
from holdfast.errors import ExportError, MissingExtraError, UsageError
from holdfast.programs import making, tracing


def test_data_dependent_control_flow_is_kept_by_a_script(tmp_path: Path) -> None:
    model = made(Branching)
    holdfast.export(model, torch.ones(4, 3), tmp_path / "model.ts")
    program = holdfast.load_program(tmp_path / "model.ts")
    for inputs in (torch.ones(2, 3), -torch.ones(2, 3)):
        assert torch.equal(program(inputs), called(model, inputs))


@pytest.mark.parametrize("options", [{"method": "trace"}, {"opset": 13}, {}], ids=str)
def test_data_dependent_control_flow_is_refused_elsewhere(
    tmp_path: Path, options: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    name = {"trace": "model.ts", 13: "model.onnx"}.get(next(iter(options.values()), None), "m.pt2")
    with pytest.raises(ExportError) as caught:
        holdfast.export(made(Branching), torch.ones(4, 3), tmp_path / name, **options)
    letter = str(caught.value)
    assert "if x.sum() > 0" in letter or "models.py:" in letter
    assert 'method="script"' in letter
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")  # torch prints the graph that it refuses


def test_a_branch_that_random_inputs_miss_is_refused_too(tmp_path: Path) -> None:
    """No value the check draws is above a thousand: the tracer's warning alone tells of it."""

    class Rare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.max() > 1000:
                return x * 0
            return x

    with pytest.raises(ExportError, match="one branch of code that depends on values"):
        holdfast.export(Rare(), torch.ones(2, 3), tmp_path / "model.ts", method="trace")
    report = holdfast.export(
        Rare(), torch.ones(2, 3), tmp_path / "model.ts", method="trace", check=False
    )
    assert report.checked is None
    assert "test_traps.py:" in report.notes[0]
    assert "not compared with the model: check=False" in str(report)


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_dimension_that_is_fixed_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError) as caught:
        holdfast.export(Fixed(), torch.ones(4, 6), tmp_path / name)
    assert str(caught.value) == (
        "dimension 0 of x cannot be dynamic: the model fixes it\n"
        "  wanted any batch, found batch = 4: the model's code holds that size as a constant, or "
        "takes it from one (a view, a reshape, a buffer)\n"
        "  Use x.shape[...] or -1 there; or leave the dimension out: dynamic=None for none."
    )
    assert list(tmp_path.iterdir()) == []
    holdfast.export(Fixed(), torch.ones(4, 6), tmp_path / name, dynamic=None)
    assert holdfast.load_program(tmp_path / name).inputs[0].shape == (4, 6)


def test_a_size_that_a_trace_has_frozen_is_found_by_other_sizes(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(int(x.shape[0]), 1).expand(x.shape[0], 3)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ExportError) as caught:
            holdfast.export(Frozen(), torch.ones(4, 3), tmp_path / "m.ts", method="trace")
    assert 'method="script"' in str(caught.value)


@pytest.mark.parametrize("name", ["model.ts", "model.pt2", "model.onnx"])
def test_a_batch_of_one_is_not_frozen(tmp_path: Path, name: str) -> None:
    """Tracers take a size of one for a constant."""
    model = made(MLP)
    holdfast.export(model, torch.randn(1, 6), tmp_path / name)
    inputs = torch.randn(5, 6)
    found = holdfast.load_program(tmp_path / name)(inputs)
    torch.testing.assert_close(found, called(model, inputs), rtol=1e-4, atol=1e-5)


def test_integers_stay_in_the_range_of_the_example(tmp_path: Path) -> None:
    """An index above the table's length would fail in both, and show nothing."""
    report = holdfast.export(made(Encoder), torch.randint(0, 20, (2, 5)), tmp_path / "model.ts")
    assert report.checked.refused == ()


def test_outputs_that_differ_are_named(tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, x: torch.Tensor):
            noise = torch.rand(3, generator=None)
            return {"same": x * 2, "noise": x + noise * float(torch.rand(1).item() > -1)}

    class Counting(nn.Module):
        """Another result each time it is called, in Python alone."""

        calls = 0

        def forward(self, x: torch.Tensor):
            self.calls += 1
            return {"same": x * 2, "drifts": x + float(self.calls)}

    with pytest.raises(ExportError) as caught:
        holdfast.export(Counting(), torch.ones(4, 3), tmp_path / "m.ts", method="trace")
    assert caught.value.tensor == "drifts"
    assert "the program computes something else than the model" in str(caught.value)
    assert "within 0.0001 of each element + 1e-05 of the largest (float32)" in str(caught.value)
    assert "on the example" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_onnx_is_written_in_the_operator_set_asked_for(tmp_path: Path) -> None:
    """torch's default exporter would write 18 without a word; the input keeps its name."""
    import onnx

    model = made(CNN)
    report = holdfast.export(
        model, torch.randn(4, 3, 9, 9), tmp_path / "m.onnx", opset=13, output_names=["scores"]
    )
    written = onnx.load(tmp_path / "m.onnx")
    assert [each.version for each in written.opset_import if each.domain == ""] == [13]
    assert report.opset == 13
    assert report.method == "torch.onnx (tracing)"
    assert [each.name for each in written.graph.input] == ["input"]
    assert [each.name for each in written.graph.output] == ["scores"]
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(written)
    for batch in (4, 1):
        inputs = torch.randn(batch, 3, 9, 9)
        found = holdfast.load_program(tmp_path / "m.onnx")(input=inputs)
        torch.testing.assert_close(found, called(model, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 11, 17, 18, 20, 21])
def test_each_operator_set_is_the_one_asked_for(tmp_path: Path, opset: int) -> None:
    report = holdfast.export(made(MLP), torch.randn(4, 6), tmp_path / "m.onnx", opset=opset)
    assert report.opset == opset


def test_an_operator_that_the_set_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        holdfast.export(made(Encoder), torch.randint(0, 20, (4, 5)), tmp_path / "m.onnx", opset=13)
    assert str(caught.value) == (
        "an operator of this model has no counterpart in ONNX of opset 13\n"
        "  in member 'aten::scaled_dot_product_attention'\n"
        "  It is there from opset 14 on: opset=14."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_scripted_names_the_layer(tmp_path: Path) -> None:
    class Wild(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * {"a": 1, 2: "b"}.get("a")  # a dict of two kinds

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Wild()))
    with pytest.raises(ExportError) as caught:
        holdfast.export(model, torch.ones(2, 3), tmp_path / "m.ts")
    assert caught.value.member == "1.0"
    assert 'method={"1.0": "trace"}' in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    report = holdfast.export(model, torch.ones(2, 3), tmp_path / "m.ts", method={"1.0": "trace"})
    assert report.method == "script (1.0 traced)"
    assert type(model[1][0]) is Wild


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (torch.ones(4, 7), "the model fails on the example"),
        ("text", "the inputs of a program are tensors"),
        ((torch.ones(4, 6), torch.ones(4, 6)), "does not fit what the model is called with"),
        ({"y": torch.ones(4, 6)}, "does not fit what the model is called with"),
        ((), "a model is exported by calling it on an example"),
        ([torch.ones(4, 6), 3], "the inputs of a program are tensors"),
    ],
)
def test_an_input_that_does_not_fit(tmp_path: Path, example: object, words: str) -> None:
    with pytest.raises((UsageError, ExportError)) as caught:
        holdfast.export(made(MLP), example, tmp_path / "m.ts")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays_where_an_export_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    holdfast.export(made(MLP), torch.ones(4, 6), path)
    before = path.read_bytes()
    with pytest.raises(ExportError):
        holdfast.export(Fixed(), torch.ones(4, 6), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_says_how_to_install_it(tmp_path: Path, package: str, monkeypatch) -> None:
    holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "there.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    new = tmp_path / "new.onnx"
    fails = {
        "onnxruntime": lambda: holdfast.load_program(tmp_path / "there.onnx"),
    }.get(package, lambda: holdfast.export(made(MLP), torch.ones(2, 6), new))
    with pytest.raises(MissingExtraError) as caught:
        fails()
    assert str(caught.value) == (
        f'ONNX needs {package}, which is not installed\n  pip install "holdfast[onnx]"'
    )
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]


def test_without_onnxruntime_nothing_is_written_that_was_not_compared(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError):
        holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    report = holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.onnx", check=False)
    assert report.checked is None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class GivesPair(nn.Module):
    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(x + 1, x * 2)


class GivesConstants(nn.Module):
    def forward(self, x: torch.Tensor):
        return {"y": x + 1, "nothing": None, "count": 3}


def test_outputs_that_a_format_cannot_hold_are_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        holdfast.export(GivesPair(), torch.ones(2, 3), tmp_path / "m.pt2")
    assert "this program cannot be saved as a .pt2 file" in str(caught.value)
    with pytest.raises(ExportError) as caught:
        holdfast.export(GivesConstants(), torch.ones(2, 3), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "an ONNX model gives tensors alone\n  in tensor 'count'\n  found 3\n"
        "  Give a tensor there, or leave it out; .ts and .pt2 files keep it."
    )
    assert list(tmp_path.iterdir()) == []
    for name in ("m.ts", "m.onnx"):
        holdfast.export(GivesPair(), torch.ones(2, 3), tmp_path / name)
        first, second = holdfast.load_program(tmp_path / name)(torch.ones(1, 3))
        assert (first.tolist(), second.tolist()) == ([[2.0] * 3], [[2.0] * 3])
    holdfast.export(GivesConstants(), torch.ones(2, 3), tmp_path / "m.pt2")
    found = holdfast.load_program(tmp_path / "m.pt2")(torch.ones(1, 3))
    assert (found["nothing"], found["count"]) == (None, 3)


def test_a_model_that_breaks_when_it_runs_scripted_says_why(tmp_path: Path) -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(ExportError) as caught:
        holdfast.export(model, torch.randn(2, 4), tmp_path / "m.ts")
    assert "Parametrization is not working with scripting" in str(caught.value)
    assert 'method="trace" or a .pt2 file may do' in str(caught.value)
    holdfast.export(model, torch.randn(2, 4), tmp_path / "m.ts", method="trace")


@pytest.mark.parametrize("wrapped", [nn.DataParallel, torch.compile])
@pytest.mark.parametrize("name", ["m.ts", "m.pt2"])
def test_wrappers_of_training_stay_behind(tmp_path: Path, wrapped, name: str) -> None:
    model = made(MLP)
    holdfast.export(wrapped(model), torch.randn(2, 6), tmp_path / name)
    with holdfast.open(tmp_path / name) as checkpoint:
        assert checkpoint.index.program.record.source == "models.MLP"
        names = {tensor.name for tensor in checkpoint.summary().tensors}
    assert names == set(model.state_dict())


def test_a_buffer_that_counts_is_put_back(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * 1.0

    model = Counting()
    for name in ("m.ts", "m.pt2", "m.onnx"):
        holdfast.export(model, torch.ones(2, 3), tmp_path / name)
        assert float(model.calls) == 0


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    model = made(CNN).train()

    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        holdfast.export(model, torch.randn(2, 3, 9, 9), tmp_path / "m.ts")
    assert list(tmp_path.iterdir()) == []
    assert all(module.training for module in model.modules())


def test_a_size_that_the_model_itself_fixes_is_named_in_a_script_too(tmp_path: Path) -> None:
    class Four(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(4, 6)

    with pytest.raises(ExportError) as caught:
        holdfast.export(Four(), torch.ones(4, 6), tmp_path / "m.ts")
    assert str(caught.value).startswith(
        "dimension 0 of x cannot be dynamic: the model itself refuses other sizes\n"
        "  wanted any batch, found it fails at batch="
    )
    holdfast.export(Four(), torch.ones(4, 6), tmp_path / "m.ts", dynamic=None)


def test_a_model_that_takes_multiples_is_not_refused(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0], x.shape[1] // 8, 8)

    holdfast.export(
        Halves(), torch.ones(2, 16), tmp_path / "m.ts", dynamic={"x": {0: "batch", 1: "length"}}
    )


class Counts(nn.Module):
    """A buffer that is changed in place; ``reassigns`` one that is another tensor then."""

    def __init__(self, reassigns: bool = False) -> None:
        super().__init__()
        self.reassigns = reassigns
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.reassigns:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return x + self.calls


PROGRAMS = [
    ("m.ts", {}),
    ("m.ts", {"method": "trace"}),
    ("m.ts", {"freeze": True}),
    ("m.pt2", {}),
    ("m.onnx", {}),
    ("m.onnx", {"opset": 13}),
]


@pytest.mark.parametrize("reassigns", [False, True])
@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize(("name", "options"), PROGRAMS)
def test_the_state_in_the_file_is_the_model_s_and_not_that_of_a_later_call(
    tmp_path: Path, name: str, options: dict, checks: bool, reassigns: bool
) -> None:
    """The model is called to see what it gives; what that changes is put back before the save."""
    model = Counts(reassigns)
    buffer = model.calls
    if options == {"opset": 13}:  # it reads them after it has traced
        with pytest.raises(ExportError, match="this model changes its own buffers"):
            holdfast.export(model, torch.zeros(2, 3), tmp_path / name, check=checks, **options)
        assert list(tmp_path.iterdir()) == []
    else:
        holdfast.export(model, torch.zeros(2, 3), tmp_path / name, check=checks, **options)
        found = holdfast.load_program(tmp_path / name)(torch.zeros(2, 3))
        assert found.tolist() == [[1.0] * 3] * 2
    assert model.calls is buffer
    assert float(buffer) == 0


def test_statistics_of_training_in_the_file_are_the_model_s(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3)).train()
    holdfast.export(model, torch.randn(4, 3) * 10 + 100, tmp_path / "m.ts", train=True)
    state = holdfast.load_program(tmp_path / "m.ts").module.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value)
    assert int(state["0.num_batches_tracked"]) == 0


class Writes(nn.Module):
    """It writes into what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


@pytest.mark.parametrize(("name", "options"), PROGRAMS)
def test_the_example_is_as_it_was(tmp_path: Path, name: str, options: dict) -> None:
    example = torch.randn(2, 3)
    before = example.clone()
    holdfast.export(Writes(), example, tmp_path / name, **options)
    assert torch.equal(example, before)
    found = holdfast.load_program(tmp_path / name)(before.clone())
    torch.testing.assert_close(found, (before + 1) * 2)


def test_a_cache_that_is_resized_is_put_back(tmp_path: Path) -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache.resize_(x.shape).copy_(x)
            return x * 2

    model = Caches()
    with pytest.raises(ExportError):  # torch.export takes no such model
        holdfast.export(model, torch.ones(2, 3), tmp_path / "m.pt2")
    assert model.cache.tolist() == [0.0]


def test_code_of_an_installed_package_is_the_user_s(monkeypatch) -> None:
    """Without an environment, packages lie within the folder of the standard library."""
    stdlib = Path("/usr/lib/python3.11")
    monkeypatch.setattr(tracing, "_STDLIB", stdlib)
    monkeypatch.setattr(tracing, "_TORCH", stdlib / "site-packages" / "torch")
    assert tracing.is_theirs(stdlib / "site-packages" / "timm" / "model.py")
    assert tracing.is_theirs(stdlib / "dist-packages" / "timm" / "model.py")
    assert tracing.is_theirs(Path("/home/me/model.py"))
    assert not tracing.is_theirs(stdlib / "contextlib.py")
    assert not tracing.is_theirs(stdlib / "site-packages" / "torch" / "nn" / "modules" / "rnn.py")


@pytest.mark.parametrize("name", ["m.ts", "m.pt2", "m.onnx"])
def test_a_dimension_of_one_that_must_be_one_is_said(tmp_path: Path, name: str) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    example = (torch.randn(1, 3, 5, 5), torch.randn(1))
    with pytest.raises(ExportError) as caught:
        holdfast.export(Scaled(), example, tmp_path / name)
    assert "a dimension of one cannot be dynamic: the model fails where there are two" in str(
        caught.value
    )
    assert 'dynamic={"x": {0: "batch"}}' in str(caught.value)
    holdfast.export(Scaled(), example, tmp_path / name, dynamic={"x": {0: "batch"}})
