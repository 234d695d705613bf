"""Which tensors of a checkpoint are taken as its weights, and what is said of the rest."""

from __future__ import annotations

import pytest
import torch
from comparing import same
from safetensors.torch import load_file

import holdfast
from holdfast.errors import MissingPartError, UsageError


def test_the_model_is_found_beside_its_optimizer(training, tmp_path):
    report = holdfast.convert(training.path, tmp_path / "m.safetensors")
    assert report.part == "model"
    assert load_file(tmp_path / "m.safetensors").keys() == training.weights.keys() - {"out.weight"}


def test_parts_that_are_not_taken_are_named(training, tmp_path):
    report = holdfast.convert(training.path, tmp_path / "a.safetensors")
    assert (report.part, report.left_out) == ("model", ("optimizer", "epoch"))
    asked = holdfast.convert(training.path, tmp_path / "a.safetensors", part="model")
    assert asked.left_out == ()
    state = holdfast.convert(training.path, tmp_path / "a.safetensors", part="optimizer")
    assert "param_groups.0.lr" in state.left_out


WEIGHTS = {"fc.weight": torch.ones(2), "fc.bias": torch.zeros(1)}
OPTIMIZER = {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
CHOSEN = {
    "the weights beside a loose tensor": (
        {"epoch": 1, "state_dict": WEIGHTS, "best_acc1": torch.ones(()), "optimizer": OPTIMIZER},
        "state_dict",
        ("epoch", "best_acc1", "optimizer"),
    ),
    "the usual name of several": (
        {"state_dict": WEIGHTS, "callbacks": {"best_model_score": torch.ones(())}},
        "state_dict",
        ("callbacks",),
    ),
    "a flat state dict with values in it": (
        {**WEIGHTS, "block.count": 3, "block._extra_state": {"amax": torch.ones(1)}},
        None,
        ("block.count",),
    ),
    "a nested state dict with a tensor at its top": (
        {"fc": {"weight": torch.ones(2)}, "bias": torch.ones(1)},
        None,
        (),
    ),
    "weights at the top beside an optimizer": (
        {"w": torch.ones(2), "optimizer": OPTIMIZER},
        None,
        ("optimizer",),
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_weights_are_found_and_what_is_beside_them_is_named(name, tmp_path):
    tree, part, left_out = CHOSEN[name]
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert (report.part, report.left_out) == (part, left_out)
    names = [item.name for item in report.items]
    assert not any("optimizer" in name or name.startswith("state.") for name in names)
    if part:
        assert set(names) == set(WEIGHTS)


def test_several_parts_are_an_error_that_lists_them(tmp_path):
    two = {"G": {"w": torch.ones(1)}, "D": {"w": torch.zeros(1)}}
    torch.save(two, tmp_path / "gan.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "gan.pt", tmp_path / "x.safetensors")
    assert str(caught.value) == (
        "this checkpoint holds several parts, and which one are the weights is not said\n"
        f"  in {tmp_path}/gan.pt\n"
        "  found G, D\n"
        '  Name one: --part G, or part="G".'
    )
    holdfast.convert(tmp_path / "gan.pt", tmp_path / "x.safetensors", part="D")
    assert load_file(tmp_path / "x.safetensors")["w"].item() == 0


def test_a_part_is_also_what_names_begin_with(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    torch.save({"model": net.state_dict(), "epoch": 1}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="model.1")
    assert (report.part, report.left_out) == ("model.1", ())
    assert same(torch.load(tmp_path / "b.pt"), net[1].state_dict())
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="modle")
    assert "found model\n" in str(caught.value)
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="nope")
    assert "found model, epoch\n" in str(caught.value)


def test_a_part_can_lie_deeper_and_its_name_hold_dots(tmp_path):
    torch.save({"a.b": {"c": {"w": torch.ones(1)}}, "n": 1}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "x.safetensors", part="a.b.c")
    assert load_file(tmp_path / "x.safetensors").keys() == {"w"}
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "y.safetensors", part="a.c")
    assert str(caught.value).splitlines()[0] == "nothing in this checkpoint is called 'a.c'"
    with pytest.raises(MissingPartError, match="there is no tensor in 'n'"):
        holdfast.convert(tmp_path / "a.pt", tmp_path / "y.safetensors", part="n")


def test_a_part_that_is_one_tensor_keeps_its_name(tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(2)}}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", part="model.fc.weight")
    assert [item.name for item in report.items] == ["weight"]
    torch.save(torch.ones(2), tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert [item.name for item in report.items] == ["tensor"]


class Config(dict):
    """A dict of somebody's own, as configurations are."""


@pytest.mark.parametrize("target", ["b.pt", "b.safetensors"])
def test_tensors_in_dicts_of_other_classes_are_taken(target, tmp_path):
    config = Config(w=torch.ones(2), b=Config(c=torch.zeros(1)))
    torch.save(config, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / target)
    assert [item.name for item in report.items] == ["w", "b.c"]
    with holdfast.open(tmp_path / target) as made, holdfast.open(tmp_path / "a.pt") as source:
        assert made.names() == source.names() or target != "b.pt"
        assert made.array("b.c").tolist() == [0]
    torch.save({"state_dict": config, "epoch": 1}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "c.safetensors")
    assert (report.part, report.left_out) == ("state_dict", ("epoch",))
