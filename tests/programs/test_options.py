"""The options of ``export``: checkpoints, dynamic dimensions, names, files, what does not fit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CNN, MLP, Two, called, made
from torch import nn

import holdfast
from holdfast.errors import ExportError, FileError, MismatchError, NoCheckpointError, UsageError
from holdfast.programs import making, onnx_file

FILES = ["m.ts", "m.pt2", "m.onnx"]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Three checkpoints; the middle one is best."""
    model = made(MLP)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        for step, loss in enumerate((0.5, 0.1, 0.3)):
            with torch.no_grad():
                model.layers[0].weight.fill_(step + 1)
            run.save(step, metrics={"loss": loss})
    return tmp_path / "run"


@pytest.mark.parametrize("name", FILES)
def test_weights_come_from_a_checkpoint_and_the_file_says_which(
    run: Path, tmp_path: Path, name: str
) -> None:
    model = made(MLP)
    report = holdfast.export(
        model, torch.ones(2, 6), tmp_path / name, checkpoint=f"{run}@best:loss:min"
    )
    best = holdfast.Run(run).best("loss", "min")
    assert report.parent == {"id": best.id, "step": 1, "file": f"{run}@best:loss:min"}
    assert holdfast.load_program(tmp_path / name).metadata["parent"] == dict(report.parent)
    with torch.no_grad():
        assert bool((model.layers[0].weight == 2).all())
    x = torch.randn(3, 6)
    found = holdfast.load_program(tmp_path / name)(x)
    torch.testing.assert_close(found, called(model, x), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_that_does_not_fit_writes_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError):
        holdfast.export(made(CNN), torch.ones(2, 3, 9, 9), tmp_path / "m.ts", checkpoint=run)
    with pytest.raises(NoCheckpointError):
        holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.ts", checkpoint="nowhere")
    assert not (tmp_path / "m.ts").exists()


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.out(x).cumsum(1) * lengths[:, None, None]


@pytest.mark.parametrize("name", FILES)
def test_any_dimension_can_be_dynamic(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = Sequence().eval()
    example = (torch.randn(2, 7, 5), torch.tensor([3.0, 4.0]))
    report = holdfast.export(
        model,
        example,
        tmp_path / name,
        dynamic={"x": {0: "batch", 1: "length"}, "lengths": {0: "batch"}},
    )
    assert [str(port) for port in report.inputs] == [
        "x: float32 [batch, length, 5]",
        "lengths: float32 [batch]",
    ]
    assert [port.shape for port in report.outputs] == [("batch", "length", 2)]
    assert {"batch=5", "length=10"} <= set(report.checked.cases)
    program = holdfast.load_program(tmp_path / name)
    for batch, length in ((1, 1), (2, 3), (6, 20)):
        inputs = (torch.randn(batch, length, 5), torch.rand(batch))
        found = program(*inputs)
        torch.testing.assert_close(found, called(model, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_dynamic_where_none_is_asked_for(tmp_path: Path, name: str) -> None:
    report = holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / name, dynamic=None)
    assert report.inputs[0].shape == (2, 6)
    assert report.checked.cases == ("the example", "random values", "the example negated")
    with pytest.raises(UsageError, match="another shape"):
        holdfast.load_program(tmp_path / name)(torch.ones(3, 6))


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ("all", "does not say which dimensions are dynamic"),
        ({"z": {0: "batch"}}, "names an input that is not there"),
        ({"a": {2: "batch"}}, "names dimensions of an input"),
        ({"a": {0: "two words"}}, "names dimensions of an input"),
        ({"a": "batch"}, "names dimensions of an input"),
        ({"a": {1: "n"}, "b": {1: "n"}}, "has two sizes in the example"),
    ],
)
def test_a_wish_that_means_nothing(tmp_path: Path, dynamic: Any, words: str) -> None:
    example = {"a": torch.ones(4, 3), "b": torch.ones(4, 5)}
    with pytest.raises(UsageError, match=words):
        holdfast.export(made(Two), example, tmp_path / "m.ts", dynamic=dynamic)


def test_inputs_of_two_batches_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        holdfast.export(made(Two), (torch.ones(4, 3), torch.ones(1, 5)), tmp_path / "m.ts")
    assert str(caught.value) == (
        "the dimension 'batch' has two sizes in the example\n"
        "  found 4 in dimension 0 of a, 1 in dimension 0 of b\n"
        '  Give them names of their own: dynamic={"x": {0: "batch"}, ...}.'
    )


@pytest.mark.parametrize("name", FILES)
def test_names_from_outside(tmp_path: Path, name: str) -> None:
    holdfast.export(
        made(Two),
        (torch.ones(4, 3), torch.ones(4, 5)),
        tmp_path / name,
        input_names=["left", "right"],
        output_names=["total", "share"],
    )
    program = holdfast.load_program(tmp_path / name)
    found = program(right=torch.ones(2, 5), left=torch.ones(2, 3))
    assert [port.name for port in program.outputs] == ["total", "share"]
    assert list(found) == ["sum", "prob"]  # the structure is the model's


@pytest.mark.parametrize("names", [["one"], ["x", "x"], "ab", ["", "b"], [1, 2]])
def test_names_that_do_not_fit(tmp_path: Path, names: Any) -> None:
    example = (torch.ones(4, 3), torch.ones(4, 5))
    for option in ("input_names", "output_names"):
        with pytest.raises(UsageError, match=f"{option} names each"):
            holdfast.export(made(Two), example, tmp_path / "m.ts", **{option: names})


class Optional(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None = None):
        return (x - y) * (1.0 if scale is None else scale)


@pytest.mark.parametrize("name", ["m.pt2", "m.onnx", "trace.ts"])
def test_a_dict_goes_by_the_parameters_of_forward(tmp_path: Path, name: str) -> None:
    """Whatever its order, and past a parameter that is left out."""
    example = {"scale": torch.tensor(2.0), "y": torch.ones(3), "x": torch.ones(3) * 4}
    options = {"method": "trace"} if name == "trace.ts" else {}
    holdfast.export(Optional(), example, tmp_path / name, **options)
    program = holdfast.load_program(tmp_path / name)
    assert [port.name for port in program.inputs] == ["x", "y", "scale"]
    found = program(torch.ones(2) * 5, torch.ones(2), torch.tensor(3.0))
    assert found.tolist() == [12.0, 12.0]
    partly = {"y": torch.ones(3), "x": torch.ones(3) * 4}
    holdfast.export(Optional(), partly, tmp_path / name, **options)
    assert (
        holdfast.load_program(tmp_path / name)(torch.ones(3), torch.zeros(3)).tolist() == [1.0] * 3
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("m.bin", {}, "what kind of program to write is not known"),
        ("m.ts", {"format": "tensorflow"}, "what kind of program to write is not known"),
        ("m.ts", {"opset": 17}, "opset= is for ONNX"),
        ("m.pt2", {"method": "trace"}, "method= is for TorchScript"),
        ("m.onnx", {"freeze": True}, "freeze= is for TorchScript"),
        ("m.pt2", {"train": True}, "train= is for TorchScript"),
        ("m.ts", {"method": "guess"}, "no method to export by"),
        ("m.ts", {"method": {"layers.9": "trace"}}, "no method to export by"),
        ("m.ts", {"freeze": True, "train": True}, "a frozen program cannot be trained"),
        ("m.onnx", {"opset": 3}, "no operator set of ONNX"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, name: str, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_format_can_be_named(tmp_path: Path) -> None:
    for format, kind in (("torchscript", "torchscript"), ("pt2", "torch.export"), ("onnx", "onnx")):
        path = tmp_path / "model.bin"
        report = holdfast.export(made(MLP), torch.ones(2, 6), path, format=format)
        assert report.format == kind
        assert holdfast.load_program(path).format == kind


def test_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"export\(\) takes a model"):
        holdfast.export(MLP, torch.ones(2, 6), tmp_path / "m.ts")  # type: ignore[arg-type]


def test_a_script_with_traced_submodules(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = made(CNN)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.backbone(x)
            if y.sum() > 0:
                return y
            return -y

    model = Outer().eval()
    x = torch.randn(2, 3, 9, 9)
    report = holdfast.export(model, x, tmp_path / "m.ts", method={"backbone": "trace"})
    assert report.method == "script (backbone traced)"
    assert type(model.backbone) is CNN
    program = holdfast.load_program(tmp_path / "m.ts")
    for each in (x, -x):
        torch.testing.assert_close(program(each), called(model, each))


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.ts")
    (tmp_path / "plain").touch()
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "m.ts").stat().st_mode) == mode


@pytest.mark.parametrize("name", FILES)
def test_a_disk_that_refuses_leaves_what_was_there(tmp_path: Path, name: str, monkeypatch) -> None:
    path = tmp_path / name
    holdfast.export(made(MLP), torch.ones(2, 6), path)
    before = path.read_bytes()

    def refuse(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(FileError):
            holdfast.export(made(MLP), torch.ones(3, 6), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_folders_are_made(tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "a" / "b" / "m.ts")
    assert (tmp_path / "a" / "b" / "m.ts").is_file()


# ---- ONNX above 2 GB: here, above a little


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "ONE_FILE_NBYTES", onnx_file._MARGIN + 100)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(40, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


@pytest.mark.parametrize("options", [{}, {"opset": 13}], ids=str)
def test_weights_that_do_not_fit_lie_beside_it(large, tmp_path: Path, options: Any) -> None:
    model = Wide().eval()
    report = holdfast.export(model, torch.ones(2, 40), tmp_path / "m.onnx", **options)
    data, program = sorted(tmp_path.iterdir(), key=lambda file: file.suffix)
    assert report.files == (str(data), str(program))
    assert data.name.startswith("m.onnx.")
    assert data.suffix == ".data"
    assert report.nbytes == data.stat().st_size + program.stat().st_size
    x = torch.randn(3, 40)
    found = holdfast.load_program(tmp_path / "m.onnx")(x)
    torch.testing.assert_close(found, called(model, x), rtol=1e-4, atol=1e-5)
    assert holdfast.verify(tmp_path / "m.onnx").ok


def test_an_export_over_it_takes_its_weights_along(large, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.onnx"
    holdfast.export(Wide().eval(), torch.ones(2, 40), path)
    first = {file.name for file in tmp_path.iterdir()}
    holdfast.export(Wide().eval(), torch.ones(2, 40), path)
    second = {file.name for file in tmp_path.iterdir()}
    assert len(second) == 2
    assert first & second == {"m.onnx"}
    real, calls = making.commit, []

    def fails_at_second(target: Path, *args: Any, **options: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise FileError("no", errno=5, file=target)
        real(target, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(making, "commit", fails_at_second)
        with pytest.raises(FileError):
            holdfast.export(Wide().eval(), torch.ones(2, 40), path)
    assert {file.name for file in tmp_path.iterdir()} == second
    assert calls[-1] == path
    monkeypatch.setattr(onnx_file, "ONE_FILE_NBYTES", 1 << 31)
    holdfast.export(Wide().eval(), torch.ones(2, 40), path)
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx"}


def test_the_default_exporter_failing_is_said(tmp_path: Path, monkeypatch) -> None:
    def fails(*_args: Any) -> Any:
        raise ExportError("an operator of this model has no counterpart", found="it")

    monkeypatch.setattr(onnx_file, "_newer", fails)
    report = holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.onnx")
    assert report.method == "torch.onnx (tracing)"
    assert any("its default one failed" in note for note in report.notes)
    with pytest.raises(ExportError):
        holdfast.export(made(MLP), torch.ones(2, 6), tmp_path / "m.onnx", opset=21)


class Image(nn.Module):
    """A convolution takes no image smaller than its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


@pytest.mark.parametrize("name", FILES)
def test_sizes_that_the_model_does_not_take_are_no_reason_to_refuse(
    tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    model = Image().eval()
    report = holdfast.export(
        model,
        torch.randn(2, 3, 16, 16),
        tmp_path / name,
        dynamic={"images": {0: "batch", 2: "height", 3: "width"}},
    )
    program = holdfast.load_program(tmp_path / name)
    x = torch.randn(3, 3, 40, 9)
    torch.testing.assert_close(program(x), called(model, x), rtol=1e-4, atol=1e-5)
    if name == "m.ts":
        assert "batch=1, height=1, width=1" in report.checked.refused
        return
    assert report.record.ranges == {"height": (4, None), "width": (4, None)}
    assert "height is at least 4" in str(report)
    with pytest.raises(UsageError) as caught:
        program(torch.randn(3, 3, 3, 9))
    assert str(caught.value) == (
        "a dimension has a size that the program does not take\n"
        f"  in {tmp_path / name}, tensor 'images'\n"
        "  wanted height of at least 4, found 3"
    )
