"""Which tensors of a checkpoint are taken as its weights, and what is said of the rest."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import samples
import torch
from comparing import same
from safetensors.torch import load_file

import holdfast
from holdfast.errors import MissingPartError, RefusedError, UsageError


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
    "a state dict without dots, with extra state of two kinds": (
        OrderedDict(
            {"w": torch.ones(2), "_extra_state": 3, "a._extra_state": {"m": torch.ones(1)}}
        ),
        None,
        ("_extra_state",),
    ),
    "weights beside arrays that are no numbers": (
        {**WEIGHTS, "words": np.array(["a", "b"]), "year": np.array(["2020"], "M8[Y]")},
        None,
        ("words", "year"),
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


@pytest.mark.parametrize("usual", ["model", "model_state_dict", "state_dict", "module"])
def test_a_usual_name_is_preferred_to_others(usual, tmp_path):
    torch.save({"ema": WEIGHTS, usual: WEIGHTS}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert (report.part, report.left_out) == (usual, ("ema",))


def test_two_usual_names_are_as_unclear_as_any_others(tmp_path):
    torch.save({"epoch": 1, "model": WEIGHTS, "state_dict": WEIGHTS}, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "x.safetensors")
    assert str(caught.value) == (
        "this checkpoint holds several parts, and which one are the weights is not said\n"
        f"  in {tmp_path}/a.pt\n"
        "  found model, state_dict\n"
        '  Name one: --part model, or part="model".'
    )


def test_generators_and_extra_values_of_our_own_files_are_no_weights(tmp_path):
    net = torch.nn.Linear(2, 2)
    holdfast.save_state(tmp_path / "a.pt", net=net, extra={"mean": torch.ones(2)})
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert (report.part, report.left_out) == ("net", ("extra", "rng"))
    assert [item.name for item in report.items] == list(net.state_dict())


@pytest.mark.filterwarnings("ignore")  # what torch says of its own formats
@pytest.mark.parametrize("name", ["script.ts", "program.pt2"])
def test_a_program_is_one_model_with_all_its_submodules(name, tmp_path):
    sample = samples.write(name, tmp_path)
    report = holdfast.convert(sample.path, tmp_path / "a.safetensors")
    assert report.part is None
    assert {item.name for item in report.items} == sample.tensors.keys()


#: A million leaves in a file of 7 KiB.
MANY = [dict.fromkeys(range(1000))] * 1001


@pytest.mark.parametrize("part", [None, "model"])
def test_a_part_of_more_than_a_million_entries_is_refused(part, tmp_path):
    torch.save({"model": {**WEIGHTS, "many": MANY}}, tmp_path / "a.pt")
    with pytest.raises(RefusedError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "a.safetensors", part=part)
    assert str(caught.value) == (
        "a part to convert has at most so many entries\n"
        f"  in {tmp_path}/a.pt\n"
        "  wanted 1,000,000 entries, found more"
    )


def test_weights_are_not_looked_for_behind_a_million_other_entries(tmp_path):
    torch.save({"net": WEIGHTS, "log": {"many": MANY, **WEIGHTS}}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert (report.part, report.left_out) == ("net", ("log",))


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


def test_what_begins_a_name_takes_nothing_of_the_modules_beside_it(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    for part, versions in ((None, ["", "0", "1"]), ("1", None)):
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part=part)
        made = torch.load(tmp_path / "b.pt")
        assert getattr(made, "_metadata", {}).keys() == set(versions or ())


def test_a_mistyped_part_is_compared_with_names_at_every_depth(tmp_path):
    torch.save({"model": {"fc": {"weight": torch.ones(2)}}, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(MissingPartError, match=r"found model\.fc\.weight\n"):
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="model.fc.wieght")


def test_however_many_ways_lead_to_a_part_of_a_cycle_it_is_one(tmp_path):
    tree = {"w": torch.ones(2)}
    tree["a"] = tree["a.a"] = tree
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", part="a." * 12 + "w")
    assert [item.name for item in report.items] == ["w"]


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


class State(dict):
    """A dict of somebody's own."""


def test_an_optimizer_in_a_dict_of_another_class_is_none_of_several_parts(tmp_path):
    torch.save({"net": WEIGHTS, "opt": State(OPTIMIZER)}, tmp_path / "a.pt")
    assert holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors").part == "net"


def test_names_that_come_close_to_a_mistyped_part_are_given_once(tmp_path):
    torch.save({"0.weight": torch.ones(1), "1.weight": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="1.wieght")
    assert caught.value.found == "1.weight, 0.weight"
