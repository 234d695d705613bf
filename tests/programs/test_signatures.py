"""What is taken and given in other forms: defaults, nested outputs, programs made by others."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import ExportError, FormatError, UsageError


class Gives(nn.Module):
    """Whatever ``make`` gives of a linear layer's output."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self.linear(x))


NESTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "dict of a tuple": lambda t: {"a": t, "hidden": (t + 1, t + 2)},
    "dict of a dict": lambda t: {"a": {"b": t}},
    "list of lists": lambda t: [[t], [t + 1]],
    "list of a tuple": lambda t: [t, (t + 1, t + 2)],
    "tuple with None": lambda t: (t, None),
    "dict with None": lambda t: {"a": t, "b": None},
}


def assert_same(found: Any, wanted: Any) -> None:
    """The same nesting, the same numbers."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, each in wanted.items():
            assert_same(found[key], each)
    elif isinstance(wanted, tuple | list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted)
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("name", "options"), [("model.ts", {"method": "trace"}), ("model.onnx", {"opset": 13})]
)
@pytest.mark.parametrize("form", NESTED)
def test_outputs_that_a_tracer_has_no_form_for(
    form: str, name: str, options: Any, tmp_path: Path
) -> None:
    model = Gives(NESTED[form]).eval()
    holdfast.export(model, torch.randn(2, 4), tmp_path / name, **options)
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert_same(holdfast.load_program(tmp_path / name)(x), model(x))
    assert "forward" not in vars(model)


def test_a_trace_gives_others_what_it_can_as_the_model_does(tmp_path: Path) -> None:
    """Only what has no form is flattened: torch.jit.load finds the dict that forward gives."""
    model = Gives(lambda t: {"a": t, "b": t + 1}).eval()
    holdfast.export(model, torch.randn(2, 4), tmp_path / "model.ts", method="trace")
    found = torch.jit.load(str(tmp_path / "model.ts"))(torch.randn(3, 4))
    assert list(found) == ["a", "b"]


class WithDefaults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, scale: float = 1.5, flip: bool = False) -> torch.Tensor:
        made: torch.Tensor = self.linear(x) * scale
        return -made if flip else made


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.ts", {}),
        ("model.ts", {"method": "trace"}),
        ("model.pt2", {}),
        ("model.onnx", {}),
        ("model.onnx", {"opset": 13}),
        ("model.onnx", {"opset": 13, "check": False}),
    ],
)
def test_defaults_of_forward_are_no_inputs(name: str, options: Any, tmp_path: Path) -> None:
    model = WithDefaults().eval()
    holdfast.export(model, torch.randn(2, 4), tmp_path / name, **options)
    program = holdfast.load_program(tmp_path / name)
    assert [port.name for port in program.inputs] == ["x"]
    x = torch.randn(3, 4)
    torch.testing.assert_close(program(x), model(x).detach())


class Bounded(nn.Module):
    """Takes what is nested, and a number that torch.export holds fast."""

    def forward(self, x: Any, pair: Any, times: int = 2, *, bias: Any = None) -> Any:
        return pair[0] + x * times, pair[1]["a"], bias


def bounded(file: Path) -> Path:
    """A .pt2 file by torch alone."""
    rows = torch.export.Dim("rows", min=2, max=9)
    made = torch.export.export(
        Bounded(),
        (torch.ones(3, 2), (torch.ones(3, 2), {"a": torch.ones(1)}), 3),
        {"bias": torch.ones(2)},
        dynamic_shapes={"x": {0: rows}, "pair": ({0: rows}, {"a": None}), "times": None}
        | {"bias": None},
    )
    torch.export.save(made, str(file))
    return file


def test_a_pt2_of_others_with_nested_inputs_and_a_constant(tmp_path: Path) -> None:
    program = holdfast.load_program(bounded(tmp_path / "foreign.pt2"), trust=True)
    assert [port.name for port in program.inputs] == ["x", "pair_0", "pair_1_a", "bias"]
    total, a, bias = program(*(torch.full(s, 2.0) for s in ((5, 2), (5, 2), (1,), (2,))))
    assert total.tolist() == [[8.0, 8.0]] * 5
    assert a.tolist() == [2.0]
    assert bias.tolist() == [2.0, 2.0]


def test_a_pt2_of_others_with_bounds_says_them(tmp_path: Path) -> None:
    program = holdfast.load_program(bounded(tmp_path / "foreign.pt2"), trust=True)
    many = torch.ones(10, 2)
    with pytest.raises(UsageError, match="a dimension has a size that the program does not") as e:
        program(many, many, torch.ones(1), torch.ones(2))
    assert e.value.wanted is not None
    assert e.value.wanted.endswith("of at least 2, at most 9")
    assert (e.value.tensor, e.value.found) == ("x", "10")


class Voice(nn.Module):
    """As others write them: a number, a default, what is nested."""

    def forward(
        self,
        x: torch.Tensor,
        rate: int,
        state: tuple[torch.Tensor, torch.Tensor],
        gain: float = 2.0,
    ) -> torch.Tensor:
        return x * rate * gain + state[0] + state[1]


def test_a_script_of_others_takes_what_is_no_tensor(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Voice()), str(tmp_path / "foreign.ts"))
    program = holdfast.load_program(tmp_path / "foreign.ts", trust=True)
    one = torch.ones(2)
    assert program(one, 3, (one, one)).tolist() == [8.0, 8.0]
    assert program(x=one, rate=3, state=(one, one), gain=1.0).tolist() == [5.0, 5.0]
    assert repr(program).endswith(
        "(x: any tensor, rate: int, state: Tuple[Tensor, Tensor], gain: float) -> ()>"
    )
    made = program(np.ones(2, "f4"), 3, (one, one))
    assert isinstance(made, np.ndarray)


def test_a_script_of_others_without_forward(tmp_path: Path) -> None:
    class Other(nn.Module):
        @torch.jit.export
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Other()), str(tmp_path / "foreign.ts"))
    with pytest.raises(FormatError, match="has no forward, so it cannot be called") as caught:
        holdfast.load_program(tmp_path / "foreign.ts", trust=True)
    assert caught.value.found == "the methods encode"


@pytest.mark.parametrize("name", ["model.ts", "model.pt2", "model.onnx"])
def test_values_that_the_program_fails_on(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    holdfast.export(nn.Embedding(4, 2), torch.tensor([[0, 3]]), tmp_path / name)
    program = holdfast.load_program(tmp_path / name)
    capfd.readouterr()
    with pytest.raises(UsageError, match="the program fails on what it is called with") as caught:
        program(torch.tensor([[0, 9]]))
    assert "out of" in str(caught.value.found)
    assert caught.value.file == str(tmp_path / name)
    assert capfd.readouterr() == ("", "")  # ONNX Runtime would log it, too


class Far(nn.Module):
    """Distances, of which torch's default ONNX exporter has no form, and its older one has."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Buffer(torch.randn(5, 4) + 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, self.points)


def test_what_the_default_onnx_exporter_cannot_the_older_one_may(tmp_path: Path) -> None:
    model = Far()
    report = holdfast.export(model, torch.randn(2, 4), tmp_path / "model.onnx")
    assert report.method == "torch.onnx (tracing)"
    (note,) = [note for note in report.notes if "older exporter" in note]
    assert note.startswith("made by torch's older exporter, as its default one failed: ")
    x = torch.randn(3, 4)
    torch.testing.assert_close(holdfast.load_program(tmp_path / "model.onnx")(x), model(x))


def test_where_a_pt2_compares_values_the_line_is_named(tmp_path: Path) -> None:
    def decide(t: torch.Tensor) -> torch.Tensor:
        return t if torch.allclose(t, t * 2) else t + 1

    with pytest.raises(ExportError, match="hangs on the values of tensors") as caught:
        holdfast.export(Gives(decide), torch.randn(2, 4), tmp_path / "model.pt2")
    assert caught.value.found is not None
    assert caught.value.found.startswith("test_signatures.py:")
    assert "if torch.allclose(t, t * 2)" in caught.value.found


_KILLED = """
import os, signal, sys
import torch
import holdfast

class Dies(torch.nn.Linear):
    calls = 0

    def forward(self, x):
        Dies.calls += 1
        if Dies.calls == 7:  # the program is written, and is being compared
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

holdfast.export(Dies(4, 3), torch.randn(2, 4), sys.argv[1], method="trace")
"""


def test_an_export_that_is_killed_leaves_what_was_there_and_the_next_sweeps(tmp_path: Path) -> None:
    file = tmp_path / "model.ts"
    file.write_bytes(b"before")
    died = subprocess.run([sys.executable, "-c", _KILLED, str(file)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"before"
    left = [path for path in tmp_path.iterdir() if path != file]
    assert [path.is_dir() for path in left] == [True]
    assert any(left[0].iterdir())
    holdfast.export(nn.Linear(4, 3), torch.randn(2, 4), file)
    assert list(tmp_path.iterdir()) == [file]
