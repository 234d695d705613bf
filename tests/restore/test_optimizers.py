"""Optimizers come back by the names of their parameters, whatever has changed around them."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import holdfast
from holdfast.errors import MismatchError
from holdfast.state.equal import same

OPTIM = torch.optim

#: Every optimizer that has a state, in the variants in which torch steps it otherwise.
MAKES = {
    "SGD": lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: OPTIM.Adam(p, lr=0.1),
    "Adam, amsgrad": lambda p: OPTIM.Adam(p, lr=0.1, amsgrad=True),
    "Adam, foreach": lambda p: OPTIM.Adam(p, lr=0.1, foreach=True),
    "Adam, fused": lambda p: OPTIM.Adam(p, lr=0.1, fused=True),
    "SGD, foreach": lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD, fused": lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "AdamW, foreach": lambda p: OPTIM.AdamW(p, lr=0.1, foreach=True),
    "AdamW, fused": lambda p: OPTIM.AdamW(p, lr=0.1, fused=True),
    "Adagrad, fused": lambda p: OPTIM.Adagrad(p, lr=0.1, fused=True),
    "RMSprop, foreach": lambda p: OPTIM.RMSprop(p, lr=0.1, foreach=True),
    "Adamax": lambda p: OPTIM.Adamax(p),
    "RAdam": lambda p: OPTIM.RAdam(p),
    "AdamW": lambda p: OPTIM.AdamW(p, lr=0.1),
    "Adagrad": lambda p: OPTIM.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: OPTIM.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "NAdam": lambda p: OPTIM.NAdam(p, lr=0.1),
    "Adadelta": lambda p: OPTIM.Adadelta(p),
    "Adafactor": lambda p: OPTIM.Adafactor(p),
    "ASGD": lambda p: OPTIM.ASGD(p),
    "Rprop": lambda p: OPTIM.Rprop(p),
}

#: The same for groups that say their learning rate.
CLASSES = {
    "SGD": lambda groups: OPTIM.SGD(groups, momentum=0.9),
    "Adam": OPTIM.Adam,
    "Adam, fused": lambda groups: OPTIM.Adam(groups, fused=True),
    "RMSprop": OPTIM.RMSprop,
    "Adafactor": OPTIM.Adafactor,
}


def model_of(names: list[str], seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in names})


def step(model: nn.Module, optimizer: OPTIM.Optimizer) -> None:
    """A step in which every parameter gets a gradient that its name alone decides."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        parameter.grad = torch.rand(parameter.shape, generator=generator).to(parameter.dtype)
    optimizer.step()


def states(model: nn.Module, optimizer: OPTIM.Optimizer) -> dict[str, object]:
    """The state of every parameter that has one, by name."""
    named = sorted(model.named_parameters())
    return {name: optimizer.state[p] for name, p in named if optimizer.state.get(p)}


def trained(make, names: list[str]) -> tuple[nn.ModuleDict, OPTIM.Optimizer]:
    model = model_of(names)
    optimizer = make(model.parameters())
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


# torch's fused SGD cannot step parameters with and without momentum in one group.
@pytest.mark.parametrize("kind", [kind for kind in MAKES if kind != "SGD, fused"])
def test_18_every_kind_goes_on_across_another_order_and_a_new_layer(kind, tmp_path) -> None:
    """pytorch #1489: state was matched by position."""
    make = MAKES[kind]
    model, optimizer = trained(make, ["a", "b", "c"])
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["c", "new", "a", "b"], seed=1)
    other = make(live.parameters())
    report = holdfast.load_state(tmp_path / "a.pt", strict=False, model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))
    assert report["optimizer"].fresh == ("model.new.weight", "model.new.bias")
    step(model, optimizer)
    step(live, other)
    for name, parameter in model.named_parameters():
        assert torch.equal(live.get_parameter(name), parameter)


@pytest.mark.parametrize("kind", MAKES)
def test_other_codes_files_hold_positions_and_go_by_them(kind, tmp_path) -> None:
    make = MAKES[kind]
    model, optimizer = trained(make, ["a", "b"])
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(tree, tmp_path / "theirs.pt")
    live = model_of(["a", "b"], seed=1)
    other = make(live.parameters())
    report = holdfast.load_state(tmp_path / "theirs.pt", model=live, optimizer=other)
    assert same(other.state_dict(), optimizer.state_dict())
    assert report["optimizer"].notes == (
        "matched by position: the checkpoint has no names of its parameters",
    )


def test_a_file_with_param_names_goes_by_them(tmp_path) -> None:
    """``optimizer = Adam(model.named_parameters())`` writes them since torch 2.6."""
    model = model_of(["a", "b"])
    optimizer = OPTIM.Adam(model.named_parameters(), lr=0.1)
    step(model, optimizer)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "t.pt"
    )
    live = model_of(["b", "a"], seed=1)
    other = OPTIM.Adam(live.parameters(), lr=1)
    report = holdfast.load_state(tmp_path / "t.pt", model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))
    assert report["optimizer"].notes == ()
    assert "param_names" not in other.param_groups[0]
    other.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_names_that_are_the_keys_of_the_state_go_by_them(tmp_path) -> None:
    """What FullyShardedDataParallel.optim_state_dict gives."""
    model, optimizer = trained(MAKES["Adam"], ["a", "b"])
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()
    state["state"] = {names[at]: value for at, value in state["state"].items()}
    state["param_groups"][0]["params"] = names
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "fsdp.pt")
    live = model_of(["b", "a"], seed=1)
    other = OPTIM.Adam(live.parameters(), lr=1)
    holdfast.load_state(tmp_path / "fsdp.pt", model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))


def test_files_of_old_torch_have_ids_for_keys_and_whole_steps(tmp_path) -> None:
    model, optimizer = trained(MAKES["Adam"], ["a", "b"])
    state = optimizer.state_dict()
    ids = {at: 140_000_000_000_000 + 64 * at for at in state["state"]}
    old = {
        "state": {ids[at]: {**value, "step": 3} for at, value in reversed(state["state"].items())},
        "param_groups": [
            {key: value for key, value in group.items() if key in ("lr", "betas", "eps", "amsgrad")}
            | {"weight_decay": 0, "params": [ids[at] for at in group["params"]]}
            for group in state["param_groups"]
        ],
    }
    torch.save({"model": model.state_dict(), "optimizer": old}, tmp_path / "old.pt")
    live = model_of(["a", "b"], seed=1)
    other = OPTIM.Adam(live.parameters(), lr=1)
    holdfast.load_state(tmp_path / "old.pt", model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))
    step(model, optimizer)
    step(live, other)
    assert same(live.state_dict(), model.state_dict())


def test_two_models_with_equal_names_do_not_collide(tmp_path) -> None:
    a, a_opt = trained(MAKES["Adam"], ["fc"])
    b = model_of(["fc"], seed=5)
    both = OPTIM.Adam([*b.parameters(), *a.parameters()], lr=0.1)
    for name, parameter in [*b.named_parameters(), *a.named_parameters()]:
        parameter.grad = torch.full_like(parameter, len(name) + (parameter in {*b.parameters()}))
    both.step()
    holdfast.save_state(tmp_path / "a.pt", a=a, b=b, a_opt=a_opt, both=both)
    c, d = model_of(["fc"]), model_of(["fc"])
    c_opt, other = OPTIM.Adam(c.parameters()), OPTIM.Adam([*c.parameters(), *d.parameters()])
    holdfast.load_state(tmp_path / "a.pt", a=c, b=d, a_opt=c_opt, both=other)
    assert same(states(c, c_opt), states(a, a_opt))
    assert same(states(c, other), states(a, both))
    assert same(states(d, other), states(b, both))


def test_names_are_found_again_where_the_model_is_a_part_of_another_name(tmp_path) -> None:
    model, optimizer = trained(MAKES["Adam"], ["a", "b"])
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["b", "a"], seed=1)
    other = OPTIM.Adam(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", net=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))


def test_names_of_parameters_are_renamed_with_those_of_the_model(tmp_path) -> None:
    model, optimizer = trained(MAKES["Adam"], ["a", "b"])
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["second", "first"], seed=1)
    other = OPTIM.Adam(live.parameters())
    rules = {"a": "first", "b": "second"}
    holdfast.load_state(tmp_path / "a.pt", rename=rules, model=live, optimizer=other)
    assert same(other.state[live["first"].weight], optimizer.state[model["a"].weight])
    assert same(other.state[live["second"].bias], optimizer.state[model["b"].bias])


class Tied(nn.Module):
    """An embedding and a head, of one weight or of two, under names in either order."""

    def __init__(self, *names: str, tied: bool = True) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(3, 3, bias=False))
        if tied:
            self.head.weight = self.emb.weight


@pytest.mark.parametrize("from_param_names", [False, True])
def test_a_tied_parameter_is_found_by_any_of_its_names(from_param_names, tmp_path) -> None:
    model = Tied("emb", "head")
    optimizer = OPTIM.Adam(model.named_parameters() if from_param_names else model.parameters())
    step(model, optimizer)
    if from_param_names:
        tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(tree, tmp_path / "a.pt")
    else:
        holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = Tied("head", "emb")
    other = OPTIM.Adam(live.parameters())
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(other.state[live.emb.weight], optimizer.state[model.emb.weight])
    assert not report["optimizer"].fresh
    assert not report["optimizer"].skipped


def test_a_parameter_of_two_models_is_one_where_names_are_without_the_model(tmp_path) -> None:
    a, b = model_of(["x", "y"]), model_of(["y"])
    b["y"] = a["y"]
    optimizer = OPTIM.Adam(a.named_parameters())
    step(a, optimizer)
    tree = {"a": a.state_dict(), "b": b.state_dict(), "o": optimizer.state_dict()}
    c, d = model_of(["y", "x"]), model_of(["y"])
    d["y"] = c["y"]
    other = OPTIM.Adam(c.parameters())
    report = holdfast.load_state(tree, a=c, b=d, o=other)
    assert same(states(c, other), states(a, optimizer))
    assert report["o"].notes == ()


def test_of_two_saved_parameters_that_are_tied_now_the_first_name_counts(tmp_path) -> None:
    model = Tied("emb", "head", tied=False)
    optimizer = OPTIM.Adam(model.parameters())
    step(model, optimizer)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = Tied("head", "emb")
    other = OPTIM.Adam(live.parameters())
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(other.state[live.emb.weight], optimizer.state[model.head.weight])
    assert report["optimizer"].skipped == (
        ("model.emb.weight", "the live optimizer has no such parameter"),
    )


def test_frozen_parameters_have_no_state_and_need_none(tmp_path) -> None:
    model = model_of(["a", "b"])
    model["a"].requires_grad_(False)
    optimizer = OPTIM.Adam(model.parameters(), lr=0.1)
    for parameter in model["b"].parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["b", "a"], seed=1)
    other = OPTIM.Adam(filter(lambda p: p is not live["a"].weight, live.parameters()))
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))
    assert [name for name, _ in report["optimizer"].skipped] == ["model.a.weight"]


@pytest.mark.parametrize("same_order", [True, False])
def test_lbfgs_goes_on_with_the_same_names_in_the_same_order_or_starts_fresh(
    same_order, tmp_path
) -> None:
    model = model_of(["a", "b"])
    optimizer = OPTIM.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = sum((p**2).sum() for p in model.parameters())
        value.backward()
        return value

    optimizer.step(loss)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a", "b"] if same_order else ["b", "a"], seed=1)
    other = OPTIM.LBFGS(live.parameters())
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    if same_order:
        assert same(other.state_dict(), optimizer.state_dict())
    else:
        assert not other.state
        assert report["optimizer"].notes == (
            "LBFGS keeps one state for all parameters, which are others: it starts fresh",
        )


def test_sparse_adam(tmp_path) -> None:
    model = nn.ModuleDict(
        {"b": nn.Embedding(4, 2, sparse=True), "a": nn.Embedding(3, 2, sparse=True)}
    )
    optimizer = OPTIM.SparseAdam(model.parameters(), lr=0.1)
    sum(each(torch.tensor([1])).sum() for each in model.values()).backward()
    optimizer.step()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = nn.ModuleDict(
        {"a": nn.Embedding(3, 2, sparse=True), "b": nn.Embedding(4, 2, sparse=True)}
    )
    other = OPTIM.SparseAdam(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))


def test_the_state_of_another_class_is_refused(tmp_path) -> None:
    model, optimizer = trained(MAKES["Adam"], ["a"])
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a"])
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(MismatchError, match="the state of another class"):
        holdfast.load_state(
            tmp_path / "a.pt", model=live, optimizer=MAKES["SGD"](live.parameters())
        )
    assert same(live.state_dict(), before)


@pytest.mark.parametrize(("one", "other"), [("Adam", "Adamax"), ("Adamax", "Adam")])
def test_states_of_classes_with_the_same_options_are_told_apart(one, other) -> None:
    model = model_of(["a"])
    optimizer = getattr(OPTIM, one)(model.parameters())
    step(model, optimizer)
    live = getattr(OPTIM, other)(model_of(["a"]).parameters())
    with pytest.raises(MismatchError, match="the state of another class"):
        holdfast.load_state({"o": optimizer.state_dict()}, o=live)


def test_hooks_of_all_optimizers_hear_nothing_of_a_restore(tmp_path) -> None:
    """Profilers, loggers and averages count steps by them."""
    model, optimizer = trained(MAKES["Adam"], ["a"])
    heard: list[str] = []
    hooks = (
        register_optimizer_step_pre_hook(lambda *_: heard.append("before")),
        register_optimizer_step_post_hook(lambda *_: heard.append("after")),
    )
    try:
        live = MAKES["Adam"](model_of(["a"]).parameters())
        holdfast.load_state({"o": optimizer.state_dict()}, o=live)
        assert heard == []
        step(model, optimizer)
        assert heard == ["before", "after"]
    finally:
        for hook in hooks:
            hook.remove()


def test_another_way_of_weight_decay_is_told() -> None:
    model = model_of(["a"])
    optimizer = OPTIM.AdamW(model.parameters())
    step(model, optimizer)
    live = OPTIM.Adam(model_of(["a"]).parameters())
    report = holdfast.load_state({"o": optimizer.state_dict()}, o=live)
    assert report["o"].notes[-1] == (
        "decoupled_weight_decay of group 0 becomes True, as it was saved"
    )


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "NAdam", "RMSprop", "Adadelta", "ASGD", "Rprop"])
def test_capturable_is_a_matter_of_where_the_live_parameters_are(kind) -> None:
    """A file from a GPU has it; the next step on a CPU would be an AssertionError of torch."""
    model, optimizer = trained(MAKES[kind], ["a"])
    state = optimizer.state_dict()
    state["param_groups"][0]["capturable"] = True
    live = model_of(["a"])
    other = MAKES[kind](live.parameters())
    report = holdfast.load_state({"m": model.state_dict(), "o": state}, m=live, o=other)
    assert other.param_groups[0]["capturable"] is False
    assert report["o"].notes[-1] == (
        "capturable of group 0 stays False: it depends on where parameters are"
    )
    step(model, optimizer)
    step(live, other)
    assert same(live.state_dict(), model.state_dict())


def test_a_group_made_of_several_says_whose_options_it_takes(tmp_path) -> None:
    model = model_of(["a", "b", "c"])
    layers = [{"params": [*model[name].parameters()]} for name in ("a", "b", "c")]
    optimizer = OPTIM.SGD([{**layers[0], "lr": 1.0}, *layers[1:]], lr=0.5, momentum=0.9)
    step(model, optimizer)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a", "b", "c"])
    other = OPTIM.SGD(live.parameters(), lr=7)
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert report["optimizer"].notes == ("group 0 was 0, 1, 2, whose lr differ: 0 counts",)
    assert other.param_groups[0]["lr"] == 1.0


def test_options_are_compared_with_those_of_the_same_parameters(tmp_path) -> None:
    model = model_of(["a", "b"])
    parts = [{"params": [*layer.parameters()]} for layer in model.values()]
    optimizer = OPTIM.Adam(parts)
    optimizer.param_groups[1]["decoupled_weight_decay"] = True
    step(model, optimizer)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a", "b"])
    other = OPTIM.Adam([{"params": live["b"].parameters()}, {"params": live["a"].parameters()}])
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert report["optimizer"].notes == (
        "decoupled_weight_decay of group 0 becomes True, as it was saved",
    )


def test_27_the_learning_rate_is_the_saved_one_and_a_scheduler_goes_on_from_it(tmp_path) -> None:
    """pytorch #60265, pytorch-lightning #15462: the learning rate was wrong after a resume."""
    model, optimizer = trained(MAKES["SGD"], ["a"])
    scheduler = OPTIM.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer, scheduler=scheduler)
    live = model_of(["a"])
    other = OPTIM.SGD(live.parameters(), lr=77)
    second = OPTIM.lr_scheduler.StepLR(other, 9, gamma=0.5)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second)
    for _ in range(4):
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for each in (optimizer, scheduler, other, second):
            each.step()


def test_float32_state_of_a_bfloat16_parameter_stays_float32(tmp_path) -> None:
    model = model_of(["a"]).bfloat16()
    optimizer = OPTIM.Adam(model.parameters(), lr=0.1)
    step(model, optimizer)
    for state in optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].float() + 1e-6
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a"]).bfloat16()
    other = OPTIM.Adam(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(states(live, other), states(model, optimizer))


def test_the_state_of_a_parameter_of_another_type_is_cast_with_it(tmp_path) -> None:
    """torch's own rule, which is right where the parameter has changed."""
    model, optimizer = trained(MAKES["Adam"], ["a"])
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a"]).double()
    other = OPTIM.Adam(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", cast=True, model=live, optimizer=other)
    assert other.state[live["a"].weight]["exp_avg"].dtype is torch.float64
    assert live["a"].weight.dtype is torch.float64


def test_a_class_of_its_own_goes_through_its_own_code(tmp_path) -> None:
    class Counting(OPTIM.SGD):
        def load_state_dict(self, state_dict):
            self.loaded = state_dict["param_groups"][0]["lr"]
            super().load_state_dict(state_dict)

    model, optimizer = trained(MAKES["SGD"], ["a"])
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = model_of(["a"])
    other = Counting(live.parameters(), lr=5, momentum=0.1)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert other.loaded == 0.1


@pytest.mark.parametrize("shape", [(7, 3), (3, 4), (1, 3)])
def test_the_state_of_a_parameter_of_another_shape_is_no_state_of_it(shape, tmp_path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(3, 4)})
    optimizer = OPTIM.Adam(model.parameters(), lr=0.1)
    step(model, optimizer)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(*reversed(shape))})
    other = OPTIM.Adam(live.parameters(), lr=0.1)
    report = holdfast.load_state(tmp_path / "a.pt", strict="shapes", model=live, optimizer=other)
    assert "model.head.weight" in report["optimizer"].fresh
    assert ("model.head.weight", "the live parameter has another shape") in (
        report["optimizer"].skipped
    )
    assert live["head"].weight not in other.state
    assert same(other.state[live["body"].weight], optimizer.state[model["body"].weight])
    step(live, other)
    alone = OPTIM.Adam(live.parameters(), lr=0.1)
    report = holdfast.load_state(tmp_path / "a.pt", select={"model": "model"}, strict="shapes",
                                 model=live, optimizer=alone)  # fmt: skip
    assert live["head"].weight not in alone.state


@pytest.mark.parametrize("shape", [(1,), (), (2,), (1, 2)])
def test_by_position_every_state_has_the_shape_of_its_parameter(shape, tmp_path) -> None:
    _, optimizer = trained(MAKES["Adam"], ["a"])
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = torch.ones(shape)
    with pytest.raises(MismatchError, match=r"parameter 0 is \(2, 2\) here, its saved state"):
        holdfast.load_state({"o": state}, o=MAKES["Adam"](model_of(["a"]).parameters()))


def test_a_name_that_two_models_have_is_not_guessed_from_the_optimizer(tmp_path) -> None:
    a, b = model_of(["fc"]), model_of(["fc"], seed=3)
    optimizer = OPTIM.Adam([*b.named_parameters()], lr=0.1)
    step(b, optimizer)
    tree = {"A": a.state_dict(), "B": b.state_dict(), "o": optimizer.state_dict()}
    c, d = model_of(["fc"]), model_of(["fc"])
    report = holdfast.load_state(tree, A=c, B=d, o=OPTIM.Adam(c.parameters()))
    assert report["o"].notes == (
        "matched by position: the checkpoint has no names of its parameters",
    )


NAMES = [f"l{n}" for n in range(5)]
#: Layers of one name have one shape, and most have the same.
SHAPES = {name: (2, 3) if name == "l3" else (2, 2) for name in NAMES}


def layers_of(names, dtype: torch.dtype) -> nn.ModuleDict:
    """Layers under the texts, of the shape that their last two letters stand for."""
    layers = {name: nn.Linear(*SHAPES[name[-2:]], dtype=dtype) for name in names}
    return nn.ModuleDict(layers)


def groups_of(data, model: nn.Module, label: str) -> list[dict]:
    """The parameters in any order, in up to three groups, each with a learning rate of its own."""
    parameters = data.draw(st.permutations([*model.parameters()]), f"{label} order")
    ends = st.integers(0, len(parameters))
    cuts = sorted(data.draw(st.lists(ends, max_size=2), f"{label} cuts"))
    pieces = [parameters[a:b] for a, b in pairwise([0, *cuts, len(parameters)])]
    return [{"params": piece, "lr": (at + 1) / 8} for at, piece in enumerate(filter(None, pieces))]


def rate_of(optimizer: OPTIM.Optimizer, parameter: nn.Parameter) -> float:
    return next(
        group["lr"]
        for group in optimizer.param_groups
        if any(each is parameter for each in group["params"])
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_permuted_regrouped_renamed_and_dropped_every_value_finds_its_name(
    tmp_path_factory, data
) -> None:
    path = tmp_path_factory.mktemp("run") / "a.pt"
    kind = data.draw(st.sampled_from(["SGD", "Adam", "Adam, fused", "RMSprop", "Adafactor"]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), "dtype")
    saved_names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), "saved")
    live_names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), "live")
    renamed = data.draw(st.sets(st.sampled_from(NAMES)), "renamed")
    if not {*saved_names} & {*live_names}:
        return
    model = layers_of(saved_names, dtype)
    optimizer = CLASSES[kind](groups_of(data, model, "saved"))
    step(model, optimizer)
    holdfast.save_state(path, model=model, optimizer=optimizer)
    live = layers_of(["new_" + each if each in renamed else each for each in live_names], dtype)
    other = CLASSES[kind](groups_of(data, live, "live"))
    if data.draw(st.booleans(), "has stepped"):
        step(live, other)
    rules = {name: f"new_{name}" for name in saved_names if name in renamed} or None
    holdfast.load_state(path, strict=False, rename=rules, model=live, optimizer=other)
    was = {name.removeprefix("new_"): parameter for name, parameter in live.named_parameters()}
    for name, parameter in was.items():
        if name.split(".")[0] in saved_names:
            assert torch.equal(parameter, model.get_parameter(name))
            assert same(other.state[parameter], optimizer.state[model.get_parameter(name)])
        else:
            assert parameter not in other.state
    names = {id(parameter): name for name, parameter in was.items()}
    for group in other.param_groups:
        known = [names[id(p)] for p in group["params"]]
        rates = {
            rate_of(optimizer, model.get_parameter(name))
            for name in known
            if name.split(".")[0] in saved_names
        }
        assert not rates or group["lr"] in rates


@pytest.mark.parametrize("has_names", [True, False])
def test_lbfgs_of_other_sizes_starts_fresh(has_names, tmp_path) -> None:
    """Its vectors have an element for each of all parameters together."""

    def trained(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
        step(model, optimizer)
        return model, optimizer

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def closure():
            optimizer.zero_grad()
            loss = model(torch.ones(1, 3)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    (saved, its), (live, optimizer) = trained(4), trained(5)
    path = tmp_path / "a.pt"
    if has_names:
        holdfast.save_state(path, model=saved, optimizer=its)
        report = holdfast.load_state(path, strict="shapes", model=live, optimizer=optimizer)
    else:
        torch.save({"optimizer": its.state_dict()}, path)
        report = holdfast.load_state(path, optimizer=optimizer)
    assert len(report["optimizer"].fresh) == 4
    step(live, optimizer)


def test_names_that_match_are_something_even_without_states(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    model[1].weight.grad = torch.ones(2, 2)
    optimizer.step()  # the first has no state yet
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = nn.Sequential(nn.Linear(2, 2, bias=False))
    other = torch.optim.Adam(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", strict=False, model=live, optimizer=other)
    assert other.param_groups[0]["lr"] == 0.5


def test_options_of_groups_that_were_one_are_named_in_the_report(tmp_path) -> None:
    model = nn.Linear(2, 2)
    its = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=its)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
    live = torch.optim.AdamW(groups, lr=0.3, weight_decay=0.1)
    report = holdfast.load_state(tmp_path / "a.pt", model=model, optimizer=live)
    note = "groups 0, 1 were one group, 0: they get its weight_decay 0.1"
    assert note in report["optimizer"].notes
    assert [group["weight_decay"] for group in live.param_groups] == [0.1, 0.1]


class Averager:
    step = 0

    def average_parameters(self, params) -> None:
        self.step += 1


def test_an_optimizer_around_another_keeps_what_it_has_of_its_own(tmp_path) -> None:
    """PyTorch has one without an Optimizer's hooks, and with a count at the top of its state."""
    from torch.distributed.optim import PostLocalSGDOptimizer

    def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(2, 2)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = PostLocalSGDOptimizer(sgd, Averager())
        for _ in range(steps):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        return model, optimizer

    (model, optimizer), (live, other) = trained(3), trained(0)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(live.state_dict(), model.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())
    assert other.averager.step == 3


def test_what_hooks_of_an_optimizer_add_to_its_state_comes_back(tmp_path) -> None:
    class Counting(torch.optim.SGD):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            self.count = 0
            self.register_state_dict_post_hook(lambda its, state: {**state, "count": its.count})
            self.register_load_state_dict_pre_hook(Counting._take)

        def _take(self, state) -> None:
            self.count = state["count"]

    model = nn.Linear(2, 2)
    optimizer, other = (Counting(model.parameters(), lr=0.1) for _ in range(2))
    optimizer.count = 3
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    holdfast.load_state(tmp_path / "a.pt", model=model, optimizer=other)
    assert other.count == 3
