"""describe() shows what will be saved, what each is, and what will not be saved."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast
from holdfast.errors import CaptureError, UsageError
from holdfast.state.rng import capture_rng


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(2, 2)
        self.out = nn.Linear(2, 2, bias=False)
        self.out.weight = self.embed.weight
        with torch.no_grad():
            self.embed.weight.copy_(torch.tensor([[0.5, -1.0], [2.0, 3.0]]))
        self.register_buffer("mean", torch.tensor([1.5, 2.0]))
        self.register_buffer("cache", torch.zeros(3), persistent=False)
        self.offset = torch.ones(1)


def parts():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.embed.weight.grad = torch.ones(2, 2)
    optimizer.step()
    net.embed.weight.data = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    return {"model": net, "optimizer": optimizer, "dice": torch.Generator().manual_seed(0)}


def test_roles_values_and_what_is_not_saved():
    described = holdfast.describe(**parts())
    items = {item.path: (item.role, item.value, item.nbytes) for item in described.items}
    assert items["model.embed.weight"] == ("parameter", "float32 (2, 2) 0.5, -1, 2, …", 16)
    assert items["model.out.weight"] == ("tied", "float32 (2, 2) 0.5, -1, 2, …", 0)
    assert items["model.mean"] == ("buffer", "float32 (2,) 1.5, 2", 8)
    assert items["optimizer.state.0.momentum_buffer"][0] == "state"
    assert items["optimizer.param_groups.0.lr"] == ("state", "0.1", 0)
    assert items["dice"][0] == "state"
    assert items["rng"] == ("state", "the generators of Python, NumPy and torch", 0)
    assert described.not_saved == {
        "model.offset": 'self.register_buffer("offset", ...)',
        "model.cache": "a buffer registered with persistent=False",
    }


def test_the_text_is_a_table():
    described = holdfast.describe(model=Net())
    assert str(described) == (
        "model.mean          buffer     float32 (2,) 1.5, 2\n"
        "model.embed.weight  parameter  float32 (2, 2) 0.5, -1, 2, …\n"
        "model.out.weight    tied       float32 (2, 2) 0.5, -1, 2, …\n"
        "rng                 state      the generators of Python, NumPy and torch\n"
        "4 values, 24 bytes in tensors\n"
        'not saved: model.offset   self.register_buffer("offset", ...)\n'
        "not saved: model.cache   a buffer registered with persistent=False"
    )
    assert json.loads(json.dumps(described.to_json()))["nbytes"] == 24


def test_what_is_described_is_what_is_saved(tmp_path):
    live = parts()
    described = holdfast.describe(**live)
    holdfast.save_state(tmp_path / "a.pt", **live)
    from holdfast.spec.tree import dotted, walk

    tree = torch.load(tmp_path / "a.pt", weights_only=True)
    del tree["rng"]
    assert [item.path for item in described.items if item.path != "rng"] == [
        dotted(path) for path, _ in walk(tree)
    ]


def test_wrappers_do_not_change_it():
    plain, net = holdfast.describe(model=Net()), Net()
    assert holdfast.describe(model=torch.compile(nn.DataParallel(net))) == plain


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_describing_changes_nothing_and_starts_no_loader():
    live = {**parts(), "loader": StatefulDataLoader([1, 2], shuffle=True)}
    rng, state = repr(capture_rng()), copy.deepcopy(live["model"].state_dict())
    described = holdfast.describe(**live)
    assert [item.value for item in described.items if item.path == "loader"] == [
        "the position of a StatefulDataLoader"
    ]
    assert live["loader"]._iterator is None
    assert repr(capture_rng()) == rng
    assert all(map(torch.equal, state.values(), live["model"].state_dict().values()))


def test_two_views_that_begin_alike_are_not_tied():
    net = nn.Module()
    net.whole = nn.Parameter(torch.zeros(4))
    net.register_buffer("start", net.whole.data[:2])
    roles = {item.path: item.role for item in holdfast.describe(model=net).items}
    assert roles["model.whole"] == "parameter"
    assert roles["model.start"] == "buffer"


def test_it_takes_what_save_state_takes_and_nothing_else():
    with pytest.raises(UsageError) as caught:
        holdfast.describe()
    assert str(caught.value) == (
        "describe() got no live object\n"
        "  Give them by name: holdfast.describe(..., model=model, optimizer=optimizer)"
    )
    with pytest.raises(CaptureError):
        holdfast.describe(model=3)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 3),
        torch.tensor(True),
        torch.tensor([1 + 2j]),
        torch.zeros(2, dtype=torch.float8_e4m3fn),
        torch.eye(2).to_sparse(),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_every_kind_of_buffer_is_described(tensor):
    net = nn.Module()
    net.register_buffer("x", tensor)
    [item, _] = holdfast.describe(model=net).items
    assert item.path == "model.x"
    assert item.role == "buffer"
