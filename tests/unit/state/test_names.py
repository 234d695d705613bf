"""Whatever wraps a model, its parameters are saved under their plain names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import UsageError
from holdfast.state import names


class Net(nn.Module):
    """With children called as the wrappers call theirs, which must stay."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(2, 3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self._orig_mod = nn.Linear(3, 1)


PLAIN = [
    *("module.weight", "module.bias"),
    *("body.0.weight", "body.0.bias"),
    *("body.1.weight", "body.1.bias"),
    *("body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"),
    *("_orig_mod.weight", "_orig_mod.bias"),
]


@pytest.fixture(scope="module")
def one_process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def inner_compiled(net):
    net.module = torch.compile(net.module)
    net.body[0] = torch.compile(nn.DataParallel(net.body[0]))
    return net


def ddp(net):
    return nn.parallel.DistributedDataParallel(net)


WRAPPERS = {
    "plain": lambda net: net,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": ddp,
    "compile": torch.compile,
    "compile(DistributedDataParallel)": lambda net: torch.compile(ddp(net)),
    "DistributedDataParallel(compile)": lambda net: ddp(torch.compile(net)),
    "DataParallel(DataParallel)": lambda net: nn.DataParallel(nn.DataParallel(net)),
    "compiled submodules": inner_compiled,
    "compile(compiled submodules)": lambda net: torch.compile(inner_compiled(net)),
}


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_is_saved_as_the_plain_one(tmp_path, wrap):
    net = Net()
    expected = copy.deepcopy(net.state_dict())
    wrapped = WRAPPERS[wrap](net)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    holdfast.save_state(tmp_path / "a.pt", model=wrapped, optimizer=optimizer)

    saved = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    assert list(saved) == PLAIN
    Net().load_state_dict(saved)
    record = holdfast.open(tmp_path / "a.pt").record
    assert record.parameters == {
        "optimizer": [[f"model.{name}" for name, _ in Net().named_parameters()]]
    }

    for other in (Net(), WRAPPERS[wrap](Net())):
        report = holdfast.load_state(tmp_path / "a.pt", model=other)
        assert report.parts[0].loaded == len(PLAIN)
        for after in (names.unwrap(other).state_dict().values(), other.state_dict().values()):
            for found, wanted in zip(after, expected.values(), strict=True):
                assert torch.equal(found, wanted)


def test_unwrap_gives_the_very_model():
    net = Net()
    assert names.unwrap(torch.compile(nn.DataParallel(net))) is net
    assert names.unwrap(net) is net


def test_a_tied_parameter_has_its_first_name():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    assert list(names.parameter_names({"a": net, "b": net}).values()) == ["a.0.weight"]


def test_optimizer_parameters_have_names_by_group_and_index():
    net = Net()
    groups = [{"params": [net.body[0].bias]}, {"params": net.module.parameters(), "lr": 1.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    assert names.optimizer_names("o", optimizer, names.parameter_names({"net": net})) == [
        ["net.body.0.bias"],
        ["net.module.weight", "net.module.bias"],
    ]


def test_an_optimizer_parameter_of_no_part_is_an_error_at_construction(tmp_path):
    net, other = nn.Linear(2, 2), nn.Linear(5, 3)
    optimizer = torch.optim.SGD([{"params": net.parameters()}, {"params": [other.weight]}], lr=1)
    for construct in (
        lambda: holdfast.Run(tmp_path / "run", model=net, optimizer=optimizer),
        lambda: holdfast.save_state(tmp_path / "a.pt", model=net, optimizer=optimizer),
        lambda: holdfast.describe(model=net, optimizer=optimizer),
    ):
        with pytest.raises(UsageError) as caught:
            construct()
        assert str(caught.value) == (
            "'optimizer' steps a parameter that belongs to no part: group 1, shape (3, 5)\n"
            "  Give the module that owns it as a part too; if the model was replaced or moved "
            "after the optimizer was made, make the optimizer again from model.parameters()."
        )
    assert list(tmp_path.iterdir()) == []


def test_groups_carry_param_names_only_if_the_live_optimizer_has_them(tmp_path):
    net = nn.Linear(2, 2)
    for parameters, expected in ((net.parameters(), None), (net.named_parameters(), True)):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        holdfast.save_state(tmp_path / "a.pt", model=net, optimizer=optimizer)
        [group] = torch.load(tmp_path / "a.pt", weights_only=True)["optimizer"]["param_groups"]
        assert group.get("param_names") == (["weight", "bias"] if expected else None)
