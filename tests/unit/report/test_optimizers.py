from __future__ import annotations

import json

import pytest
import torch

import holdfast
from holdfast.report.optimizers import find_optimizers
from holdfast.report.outline import outline
from holdfast.report.summary import summarize
from holdfast.spec.index import Index
from holdfast.spec.record import Record


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))


def adam(net: torch.nn.Module) -> torch.optim.Optimizer:
    made = torch.optim.AdamW(
        [
            {"params": [net[0].weight, net[1].weight], "weight_decay": 0.1},
            {"params": [net[0].bias, net[1].bias], "lr": 0.5},
        ],
        lr=0.01,
    )
    net(torch.ones(1, 4)).sum().backward()
    made.step()
    return made


def index_of(tree, tmp_path, **fields) -> Index:
    torch.save(tree, tmp_path / "a.pt")
    with holdfast.open(tmp_path / "a.pt") as checkpoint:
        index = checkpoint.index
    return Index("a", "torch_zip", index.tree, index.extents, **fields)


def test_groups_and_state_of_a_real_optimizer(tmp_path) -> None:
    net = model()
    index = index_of({"model": net.state_dict(), "optimizer": adam(net).state_dict()}, tmp_path)
    (found,) = find_optimizers(index)
    assert found.name == "optimizer"
    assert [(group.parameters, group.names) for group in found.groups] == [(2, ()), (2, ())]
    assert [group.options["lr"] for group in found.groups] == ["0.01", "0.5"]
    assert [group.values["weight_decay"] for group in found.groups] == [0.1, 0.01]
    assert [(s.name, s.tensors, s.numel, s.nbytes, s.dtypes) for s in found.state] == [
        ("step", 4, 4, 16, ("float32",)),
        ("exp_avg", 4, 58, 232, ("float32",)),
        ("exp_avg_sq", 4, 58, 232, ("float32",)),
    ]
    assert (found.tensors, found.nbytes) == (12, 480)


def test_names_come_from_the_record_or_the_groups(tmp_path) -> None:
    net = model()
    tree = {"optimizer": adam(net).state_dict()}
    tree["optimizer"]["param_groups"][1]["param_names"] = ["0.bias", "1.bias"]
    groups = find_optimizers(index_of(tree, tmp_path))[0].groups
    assert [group.names for group in groups] == [(), ("0.bias", "1.bias")]
    assert "param_names" not in groups[1].options
    record = Record(id="x", parameters={"optimizer": [["m.a", "m.b"], ["m.c", None]]})
    groups = find_optimizers(index_of(tree, tmp_path, record=record))[0].groups
    assert [group.names for group in groups] == [("m.a", "m.b"), ("m.c",)]


@pytest.mark.parametrize("broken", [5, [5, 6], [["w"]], [[1, 2, 3], {}]])
def test_a_record_that_lies_is_no_crash(broken, tmp_path) -> None:
    record = Record(id="x", parameters={"optimizer": broken})
    index = index_of({"optimizer": adam(model()).state_dict()}, tmp_path, record=record)
    assert all(group.names == () for group in find_optimizers(index)[0].groups)
    list(outline(summarize(index), is_short=True))


def test_they_are_found_wherever_they_stand(tmp_path) -> None:
    state = adam(model()).state_dict()
    for tree, name in (
        (state, ""),
        ({"optimizer_states": [state]}, "optimizer_states.0"),
        ({"optimizers": {"main": state}}, "optimizers.main"),
    ):
        index = index_of(tree, tmp_path)
        assert [each.name for each in find_optimizers(index)] == [name]
        rows = list(outline(summarize(index), is_short=True))
        assert [row.name for row in rows if row.kind == "state"] == [
            each.partition(".")[2] if not name else f"{name.partition('.')[2]}.{each}"
            for each in ("state.*.step", "state.*.exp_avg", "state.*.exp_avg_sq")
        ]
        assert not [row for row in rows if row.kind in ("tensor", "value")]


def test_only_those_that_were_asked_for(tmp_path) -> None:
    state = adam(model()).state_dict()
    index = index_of({"a": state, "b": state, "ab": 1}, tmp_path)
    assert [each.name for each in find_optimizers(index, "a")] == ["a"]
    assert [each.name for each in summarize(index, name="b").optimizers] == ["b"]
    assert summarize(index, grep="exp").optimizers == ()


def test_what_only_looks_like_one(tmp_path) -> None:
    for tree in (
        {"o": {"state": {}, "param_groups": 3}},
        {"o": {"state": {}, "param_groups": [3]}},
        {"o": {"state": [], "param_groups": []}},
        {"o": {"state": {}, "param_groups": [{"lr": 1}]}},
    ):
        assert find_optimizers(index_of(tree, tmp_path)) == ()


def test_state_that_is_no_tensor_is_counted(tmp_path) -> None:
    state = {0: {"step": 3, "dirs": [torch.zeros(2), torch.zeros(2)], "odd": 1, "none": None}}
    tree = {"o": {"state": state, "param_groups": [{"params": [0], "lr": torch.tensor(0.1)}]}}
    (found,) = find_optimizers(index_of(tree, tmp_path))
    assert [(s.name, s.tensors, s.values) for s in found.state] == [
        ("step", 0, 1),
        ("dirs", 2, 0),
        ("odd", 0, 1),
        ("none", 0, 1),
    ]
    assert found.groups[0].options == {"lr": "a tensor of shape []"}
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert answer["groups"] == [
        {"parameters": 1, "names": [], "options": {"lr": "a tensor of shape []"}}
    ]
    assert answer["state"][1] == {
        "name": "dirs",
        "tensors": 2,
        "numel": 4,
        "nbytes": 16,
        "dtypes": ["float32"],
        "values": 0,
    }


def test_on_the_page_they_are_short(tmp_path) -> None:
    net = model()
    record = Record(id="x", parameters={"optimizer": [["m.a", "m.b"], ["m.c", "m.d"]]})
    index = index_of({"optimizer": adam(net).state_dict()}, tmp_path, record=record)
    rows = list(outline(summarize(index), is_short=True))
    assert [(row.kind, row.name, row.tensors, row.nbytes) for row in rows] == [
        ("part", "optimizer", 12, 480),
        ("param_group", "param_groups.0", 0, 0),
        ("param_group", "param_groups.1", 0, 0),
        ("state", "state.*.step", 4, 16),
        ("state", "state.*.exp_avg", 4, 232),
        ("state", "state.*.exp_avg_sq", 4, 232),
    ]
    text = rows[1].text
    assert text.startswith("2 parameters (m.a, m.b); ")
    assert "weight_decay 0.1, lr 0.01, betas (0.9, 0.999), eps 1e-08" in text
    assert "None" not in text
    assert "False" not in text
    folded = list(outline(summarize(index), depth=2, is_short=True))
    assert [(row.name, row.tensors) for row in folded] == [
        ("optimizer", 12),
        ("param_groups", 0),
        ("state", 12),
    ]
