from __future__ import annotations

import io
import time

import pytest
import torch
from torch import nn

from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.leaves import leaves
from holdfast.spec.index import Opaque, TensorRef

SHARED = {"a": 1}


def leaves_of(obj) -> dict[str, object]:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    buffer.seek(0)
    return {leaf.name: leaf.value for leaf in leaves(read_index(open_source(buffer)).tree).found}


def tensors_of(found: dict[str, object]) -> list[str]:
    return [name for name, value in found.items() if isinstance(value, TensorRef)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 3
        self.sizes = [1, 2]
        self.name = "net"
        self.nothing = None
        self.dtype = torch.float16
        self.empty = []
        self.config = {"lr": 0.1, "betas": (0.9, 0.99)}
        self.mixed = {"lr": 0.1, "weight": torch.rand(2)}
        self.loose = torch.rand(2)
        self._private = 3
        self.conv = nn.Conv2d(1, 2, 3)
        self.lstm = nn.LSTM(2, 3)
        self.register_buffer("mean", torch.rand(2))
        self.register_buffer("absent", None)
        self.act = torch.relu


def test_the_tensors_of_a_model_bear_the_names_in_its_state_dict() -> None:
    for model in (Net(), nn.DataParallel(Net()), nn.TransformerEncoderLayer(4, 2, 4)):
        assert tensors_of(leaves_of(model)) == list(model.state_dict())
        prefixed = [f"model.{name}" for name in model.state_dict()]
        assert tensors_of(leaves_of({"model": model})) == prefixed


def test_buffers_that_the_state_dict_leaves_out_are_listed_too() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("cache", torch.rand(2), persistent=False)
    assert tensors_of(leaves_of(model)) == ["weight", "bias", "cache"]


def test_plain_attributes_of_modules_are_values_and_bookkeeping_is_none() -> None:
    found = leaves_of(Net())
    values = {
        name: value
        for name, value in found.items()
        if not isinstance(value, TensorRef | Opaque) and "." not in name
    }
    assert values.pop("dtype").name == "float16"
    assert values == {"training": True, "width": 3, "sizes": [1, 2], "name": "net", "nothing": None}
    assert found["config.lr"] == 0.1
    assert found["config.betas"] == (0.9, 0.99)
    assert not any(name.startswith(("mixed", "loose", "empty")) for name in found)
    assert {name: value for name, value in found.items() if name.startswith("conv.")}.keys() == {
        *("conv.training", "conv.in_channels", "conv.out_channels", "conv.kernel_size"),
        *("conv.stride", "conv.padding", "conv.dilation", "conv.transposed", "conv.groups"),
        *("conv.output_padding", "conv.padding_mode", "conv.weight", "conv.bias"),
    }
    assert found["conv.kernel_size"] == (3, 3)
    assert found["lstm.hidden_size"] == 3
    assert isinstance(found[""], Opaque)
    assert found["lstm"].symbol == "torch.nn.modules.rnn.LSTM"


def test_a_traced_and_a_compiled_model_show_what_is_in_them() -> None:
    inner = nn.Sequential(nn.Linear(2, 3))
    for model in (torch.fx.symbolic_trace(inner), torch.compile(inner, backend="eager")):
        assert tensors_of(leaves_of(model)) == list(model.state_dict())


def test_modules_that_hold_the_one_below_twice_end_soon() -> None:
    module = nn.Linear(3, 3)
    for _ in range(40):
        above = nn.Module()
        above._modules["a"] = above._modules["b"] = module
        module = above
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    index = read_index(open_source(buffer))
    started = time.process_time()
    found, is_complete = leaves(index.tree)
    assert not is_complete
    count = len(found)
    del found  # a message with a million leaves would take minutes
    assert count < 100_000
    assert time.process_time() - started < 5


class Config:
    def __init__(self) -> None:
        self.depth, self.names = 12, ["a"]


def test_the_objects_that_a_model_holds_are_listed_with_what_is_in_them() -> None:
    model = nn.Linear(1, 1)
    model.config, model.act = Config(), torch.relu
    found = leaves_of({"m": model})
    assert isinstance(found["m.config"], Opaque)
    assert (found["m.config.depth"], found["m.config.names"]) == (12, ["a"])
    assert found["m.act"].symbol == "torch._C._VariableFunctionsClass.relu"
    assert tensors_of(found) == ["m.weight", "m.bias"]


@pytest.mark.parametrize(
    ("tree", "cost"),
    [
        ([{"a": 1, "b": 2}], 4),
        ({"x" * 63: 1}, 2),
        ({"x" * 640: 1}, 12),
        ({"x" * 600: {"y" * 100: 1}}, 1 + 10 + 11),
        ([SHARED, SHARED], 1 + 2 + 102),
        ([SHARED, SHARED, SHARED], 1 + 2 + 102 + 102),
    ],
)
def test_long_names_and_containers_met_again_count_more(tree, cost) -> None:
    assert leaves(tree, budget=cost).is_complete
    found, is_complete = leaves(tree, budget=cost - 1)
    assert not is_complete
    assert found == leaves(tree).found[: len(found)]


@pytest.mark.parametrize("key", ["", "a", 1])
def test_every_key_at_the_top_is_a_part_the_empty_one_in_brackets(key) -> None:
    [leaf] = leaves({key: {"w": 1}}).found
    assert leaf.part == (str(key) or "['']")
