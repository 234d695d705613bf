"""Inputs, outputs, options and files that cannot be: each has its letter, or works after all."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import MLP, called, made
from torch import nn
from torch.nn.utils import parametrizations

import holdfast
from holdfast.errors import ExportError, HoldfastError, UsageError
from holdfast.programs.check import compare
from holdfast.programs.inputs import Inputs
from holdfast.programs.sizes import Case


class Copy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


class Gives(nn.Module):
    """Whatever ``make`` gives of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_integers_that_torch_hardly_knows(dtype: torch.dtype, tmp_path: Path) -> None:
    numbers = torch.tensor([[1, 5], [2, 3]]).to(dtype)
    holdfast.export(Copy(), numbers, tmp_path / "model.ts")
    assert torch.equal(holdfast.load_program(tmp_path / "model.ts")(numbers), numbers)


@pytest.mark.parametrize("wide", [[-(2**63), 2**63 - 1], [0, 2**63 - 1], [-(2**63), 5]])
def test_integers_over_all_their_range(wide: list[int], tmp_path: Path) -> None:
    report = holdfast.export(Copy(), torch.tensor([wide]), tmp_path / "model.ts")
    assert report.checked is not None


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, 3).to_sparse(), torch.ones(2, 3, device="meta")],
    ids=["sparse", "meta"],
)
def test_inputs_without_values_or_not_dense(tensor: torch.Tensor, tmp_path: Path) -> None:
    for name in ("model.ts", "model.pt2", "model.onnx"):
        with pytest.raises(UsageError, match="the inputs of a program are dense tensors with"):
            holdfast.export(Copy(), tensor, tmp_path / name)
    holdfast.export(Copy(), torch.ones(2, 3), tmp_path / "model.ts")
    with pytest.raises(UsageError, match="the inputs of a program are dense tensors with values"):
        holdfast.load_program(tmp_path / "model.ts")(tensor)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda x: x.to_sparse(), "a sparse_coo tensor"),
        (lambda x: {"a": x, "b": float("nan")}, "the constant nan"),
        (lambda x: [x, float("-inf")], "the constant -inf"),
    ],
)
def test_outputs_that_no_program_gives(make: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="something that no program can give") as caught:
        holdfast.export(Gives(make), torch.ones(2, 3), tmp_path / "model.pt2")
    assert caught.value.found == found


def test_a_model_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is on the meta device") as caught:
        holdfast.export(nn.Linear(3, 2).to("meta"), torch.ones(2, 3), tmp_path / "model.pt2")
    assert caught.value.tensor == "weight"
    assert 'model.to_empty(device="cpu")' in str(caught.value)


def test_a_script_module_can_be_exported_unless_it_is_frozen(tmp_path: Path) -> None:
    model = made(MLP)
    scripted = torch.jit.script(model)
    with pytest.raises(UsageError, match="a frozen TorchScript module cannot be exported"):
        holdfast.export(torch.jit.freeze(scripted), torch.ones(4, 6), tmp_path / "model.ts")
    report = holdfast.export(scripted, torch.ones(4, 6), tmp_path / "model.ts")
    assert [port.name for port in report.inputs] == ["x"]
    program = holdfast.load_program(tmp_path / "model.ts")
    torch.testing.assert_close(program(torch.ones(2, 6)), called(model, torch.ones(2, 6)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": "13"}, "found '13'"),
        ({"opset": 13.0}, "found 13.0"),
        ({"opset": True}, "found True"),
        ({"opset": 99}, "wanted 7 to "),
        ({"input_names": 5}, "input_names names each input once"),
        ({"output_names": iter("x")}, "output_names names each output once"),
    ],
)
def test_options_of_another_kind(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / "model.onnx", **options)
    assert words in str(caught.value)


def test_a_path_that_is_none() -> None:
    with pytest.raises(UsageError, match="a program is written to a path"):
        holdfast.export(made(MLP), torch.ones(4, 6), None)  # type: ignore[arg-type]


def test_outputs_of_one_name_have_to_be_named(tmp_path: Path) -> None:
    model = Gives(lambda x: {"a.b": x * 1, "a": {"b": x * 2}})
    with pytest.raises(UsageError, match="two outputs of the model would have one name"):
        holdfast.export(model, torch.ones(2, 3), tmp_path / "model.onnx")
    holdfast.export(model, torch.ones(2, 3), tmp_path / "model.onnx", output_names=["a", "b"])


@pytest.mark.parametrize("key", ["x", ""])
def test_an_onnx_output_has_a_name_of_its_own(key: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every input and output has a name of its own"):
        holdfast.export(Gives(lambda x: {key: x * 2}), torch.ones(2, 3), tmp_path / "model.onnx")


def test_onnx_has_no_complex_numbers(tmp_path: Path) -> None:
    numbers = torch.ones(2, 3, dtype=torch.complex64)
    with pytest.raises(ExportError, match="ONNX has no complex numbers"):
        holdfast.export(Copy(), numbers, tmp_path / "model.onnx")
    holdfast.export(Copy(), numbers, tmp_path / "model.ts")


def test_what_onnx_runtime_does_not_run_is_told_without_the_scratch_file(tmp_path: Path) -> None:
    model = made(MLP).bfloat16()
    with pytest.raises(ExportError, match="what was written as onnx cannot be run") as caught:
        holdfast.export(model, torch.ones(4, 6).bfloat16(), tmp_path / "model.onnx")
    assert str(tmp_path) not in str(caught.value)
    assert "NOT_IMPLEMENTED" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.ts", "model.pt2", "model.onnx"])
@pytest.mark.parametrize("device", ["nowhere", 7.5])
def test_a_device_that_is_none(name: str, device: Any, tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / name)
    with pytest.raises(UsageError, match="this names no device"):
        holdfast.load_program(tmp_path / name, device=device)


@pytest.mark.parametrize("name", ["model.ts", "model.pt2"])
def test_a_device_that_is_not_there(name: str, tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / name)
    absent = f"cuda:{torch.cuda.device_count() + 3}"
    with pytest.raises(UsageError, match="a program cannot be loaded onto this device"):
        holdfast.load_program(tmp_path / name, device=absent)


def test_a_program_whose_files_are_changed_is_a_letter(tmp_path: Path) -> None:
    """Of torch's loader came a JSONDecodeError, a KeyError, a TypeError, and others."""
    holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / "model.pt2")
    refused = 0
    for seed in range(40):
        choices = random.Random(seed)
        _rewritten(tmp_path / "model.pt2", tmp_path / "changed.pt2", choices)
        try:
            holdfast.load_program(tmp_path / "changed.pt2", trust=True)
        except HoldfastError:
            refused += 1
    assert refused > 30


def _rewritten(source: Path, target: Path, choices: random.Random) -> None:
    """A zip with right checksums, in one text of which a few bytes are other ones."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as written:
        picked = choices.choice([name for name in read.namelist() if name.endswith(".json")])
        for name in read.namelist():
            data = bytearray(read.read(name))
            for _ in range(3 if name == picked else 0):
                data[choices.randrange(len(data))] = choices.randrange(256)
            written.writestr(name, bytes(data))


class Keywords(nn.Module):
    def forward(self, x: Any, scale: Any = 2.0, *, bias: Any = None) -> Any:
        return x * scale + (0 if bias is None else bias)


class Anything(nn.Module):
    def forward(self, **inputs: Any) -> Any:
        return inputs["x"] * inputs["bias"]


@pytest.mark.parametrize("kind", [Keywords, Anything])
@pytest.mark.parametrize("names", [None, ["one", "two"]])
def test_a_trace_takes_what_goes_by_name(kind: Any, names: Any, tmp_path: Path) -> None:
    model, example = kind(), {"x": torch.randn(3, 4), "bias": torch.randn(3, 4)}
    path = tmp_path / "model.ts"
    holdfast.export(model, example, path, method="trace", input_names=names)
    assert "forward" not in vars(model)
    program = holdfast.load_program(path)
    assert [port.name for port in program.inputs] == (names or ["x", "bias"])
    found = program(*(value[:2] for value in example.values()))
    assert torch.equal(found, model(**{name: value[:2] for name, value in example.items()}))


def test_sizes_of_what_forward_does_not_name_are_refused_by_torch_export(tmp_path: Path) -> None:
    example = {"x": torch.randn(3, 4), "bias": torch.randn(3, 4)}
    with pytest.raises(ExportError, match="no dynamic sizes of what forward has no parameter for"):
        holdfast.export(Anything(), example, tmp_path / "model.pt2")
    holdfast.export(Anything(), example, tmp_path / "model.pt2", dynamic=None)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor, flag: bool = True) -> torch.Tensor:
        return x * scale if flag else x


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Scaled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, scale=x)


class AroundWithFlag(Around):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, scale=x, flag=False)


def test_a_traced_submodule_takes_tensors_by_name_and_nothing_else(tmp_path: Path) -> None:
    path, x = tmp_path / "model.ts", torch.randn(3, 4)
    holdfast.export(Around(), x, path, method={"inner": "trace"})
    assert torch.equal(holdfast.load_program(path)(x), x * x)
    with pytest.raises(ExportError, match="called with what is no tensor") as caught:
        holdfast.export(AroundWithFlag(), x, path, method={"inner": "trace"})
    assert (caught.value.member, caught.value.tensor) == ("inner", "flag")


def test_parametrized_weights_are_no_script_s(tmp_path: Path) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ExportError, match="its weights are computed by parametrizations") as caught:
        holdfast.export(model, torch.ones(2, 4), tmp_path / "model.ts")
    assert "remove_parametrizations(module, name)" in str(caught.value)
    assert caught.value.member == "0"
    holdfast.export(model, torch.ones(2, 4), tmp_path / "model.ts", method="trace")
    holdfast.export(model, torch.ones(2, 4), tmp_path / "model.pt2")


def test_scripting_leaves_no_marks_in_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LSTM(3, 4))[:1]
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    holdfast.export(model, torch.ones(2, 3, 8, 8), tmp_path / "model.ts")
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("name", ["model.ts", "model.pt2"])
def test_a_compiled_submodule_is_exported_without_its_wrapper(name: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0] = torch.compile(model[0])
    wrapper = model[0]
    holdfast.export(model, torch.ones(2, 4), tmp_path / name)
    assert model[0] is wrapper
    assert set(holdfast.load_program(tmp_path / name).module.state_dict()) == {"0.weight", "0.bias"}


class Decides(nn.Module):
    """Branches on what the tracer does not warn of."""

    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.decide = decide

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x if self.decide(x) else x * 2


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: torch.equal(x, x * 0 + 7),
        lambda x: x.equal(x * 0 + 7),
        lambda x: torch.allclose(x, x * 0 + 7),
        lambda x: torch.is_nonzero(x.sum() > 999),
    ],
)
@pytest.mark.parametrize(
    ("name", "options"), [("m.ts", {"method": "trace"}), ("m.onnx", {"opset": 13})]
)
def test_a_branch_that_the_tracer_does_not_warn_of_is_refused(
    decide: Any, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="one branch of code that depends on values") as caught:
        holdfast.export(Decides(decide), torch.randn(3, 4), tmp_path / name, **options)
    assert "test_bad_input.py:" in str(caught.value.found)
    assert "a bool of torch." in str(caught.value.found)


class Merging(nn.Linear):
    """As LoRA has it: ``train()`` merges a second weight into the first, and takes it out again."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.second = nn.Parameter(torch.randn(4, 4))
        self.is_merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.is_merged == mode:
            self.weight.data += self.second if not mode else -self.second
            self.is_merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight if self.is_merged else self.weight + self.second
        return nn.functional.linear(x, weight, self.bias)


def test_a_mode_that_does_something_is_put_back_by_train(tmp_path: Path) -> None:
    model = nn.Sequential(Merging(), nn.ReLU(), Merging()).train()
    model[2].eval()
    model[1].training = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    holdfast.export(model, torch.randn(2, 4), tmp_path / "model.pt2")
    assert [module.training for module in model] == [True, False, False]
    assert [model[0].is_merged, model[2].is_merged] == [False, True]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_scripting_that_fails_leaves_no_marks_either(tmp_path: Path) -> None:
    class Unscriptable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor, **more: Any) -> torch.Tensor:
            return self.conv(x)

    model = Unscriptable()
    with pytest.raises(ExportError, match="cannot be scripted"):
        holdfast.export(model, torch.ones(2, 3, 8, 8), tmp_path / "model.ts")
    assert "__overloads__" not in vars(model.conv)


def test_code_that_no_file_holds_is_a_letter(tmp_path: Path) -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    model = Gives(Double.apply)
    with pytest.raises(ExportError, match="this program cannot be saved as TorchScript") as caught:
        holdfast.export(model, torch.ones(2, 3), tmp_path / "model.ts", method="trace")
    assert "torch.autograd.Function" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_outputs_that_changes_is_said(tmp_path: Path) -> None:
    class Apart(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return torch.unbind(x)

    with pytest.raises(ExportError, match="another number of outputs than on the example"):
        holdfast.export(Apart(), torch.ones(2, 3), tmp_path / "model.ts")


@pytest.mark.parametrize("dtype", [">f4", "<f4"])
def test_arrays_of_either_byte_order_are_taken(dtype: str, tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / "model.ts")
    program = holdfast.load_program(tmp_path / "model.ts")
    array = np.arange(12, dtype=dtype).reshape(2, 6)
    want = program(torch.arange(12, dtype=torch.float32).reshape(2, 6))
    np.testing.assert_array_equal(program(array), want.numpy())


@pytest.mark.parametrize("array", [np.array([["a"]]), np.array([[None]]), np.ones((2, 6), "g")])
def test_arrays_that_are_no_tensors(array: Any, tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / "model.ts")
    with pytest.raises(UsageError, match="torch has no tensors of this dtype"):
        holdfast.load_program(tmp_path / "model.ts")(array)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "a\0.ts"}, "this is no path"),
        ({"checkpoint": 3}, "a checkpoint is named by a path"),
        ({"dynamic": np.array([1, 2])}, "which dimensions are dynamic"),
    ],
)
def test_arguments_of_another_kind(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / options.pop("path", "model.ts")
    with pytest.raises(UsageError, match=words):
        holdfast.export(made(MLP), torch.ones(4, 6), path, **options)


def test_providers_are_a_list(tmp_path: Path) -> None:
    holdfast.export(made(MLP), torch.ones(4, 6), tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="providers are several"):
        holdfast.load_program(tmp_path / "model.onnx", providers="CPUExecutionProvider")


def test_what_exporters_print_past_python_is_not_seen(tmp_path: Path, capfd) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    with pytest.raises(ExportError, match="no counterpart in ONNX of opset 13"):
        holdfast.export(model, torch.ones(2, 5, 8), tmp_path / "model.onnx", opset=13)
    assert capfd.readouterr().out == ""
    print("and what comes later is")
    assert capfd.readouterr().out == "and what comes later is\n"


@pytest.mark.parametrize(
    ("want", "have", "dtype"),
    [
        ([-1e9, 1.0], [-1e9, 60.0], torch.float32),
        ([-1e9] * 5 + [1.0, 2.0], [-1e9] * 5 + [1.0, 3.0], torch.float32),
        ([-65504.0, 1.0], [-65504.0, 60.0], torch.float16),
    ],
)
def test_a_masked_element_does_not_hide_the_others(want: Any, have: Any, dtype: Any) -> None:
    case = Case("the example", Inputs((), ()), is_example=True)
    with pytest.raises(ExportError, match="computes something else"):
        compare(
            lambda _: torch.tensor(want, dtype=dtype),
            lambda _: torch.tensor(have, dtype=dtype),
            [case],
            ["output"],
            cure="",
        )


def test_the_largest_of_each_difference_is_reported() -> None:
    cases = [Case("one", Inputs((), ())), Case("two", Inputs((), ()))]
    wants = iter([torch.tensor([1000.0]), torch.tensor([1.0])])
    haves = iter([torch.tensor([1000.01]), torch.tensor([1.0001])])
    found = compare(lambda _: next(wants), lambda _: next(haves), cases, ["output"], cure="")
    assert found.outputs[0].absolute == pytest.approx(1e-2, rel=1e-2)
    assert found.outputs[0].relative == pytest.approx(1e-4, rel=1e-2)
