"""Odd input gets a letter, or does what torch does; nothing is taken in silence."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import holdfast
from holdfast.errors import (
    CaptureError,
    HoldfastError,
    MismatchError,
    MissingPartError,
    UsageError,
)
from holdfast.state.equal import same

Adam = torch.optim.Adam


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4))


def trained() -> tuple[nn.Sequential, Adam]:
    model = net()
    optimizer = Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def fresh() -> tuple[nn.Sequential, Adam]:
    model = net()
    return model, Adam(model.parameters())


GROUP = {"lr": 0.1, "params": [0, 1, 2, 3]}
BROKEN = {
    "no group": {"state": {}, "param_groups": [None]},
    "no list of parameters": {"state": {}, "param_groups": [{**GROUP, "params": None}]},
    "a number of parameters": {"state": {}, "param_groups": [{**GROUP, "params": 3}]},
    "lists for keys": {"state": {}, "param_groups": [{**GROUP, "params": [[1], [2]]}]},
    "a number for names": {"state": {}, "param_groups": [{**GROUP, "param_names": 3}]},
    "no state": {"state": None, "param_groups": [GROUP]},
    "a list": [1, 2],
    "a tensor": torch.ones(2),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_state_of_an_optimizer(kind, tmp_path) -> None:
    model, optimizer = fresh()
    tree = {"model": net().state_dict(), "optimizer": BROKEN[kind]}
    torch.save(tree, tmp_path / "a.pt")
    before = copy.deepcopy(model.state_dict())
    for source in (tmp_path / "a.pt", tree):
        with pytest.raises(MissingPartError, match=r"'optimizer' \(\w+, no state of one\)"):
            holdfast.load_state(source, model=model, optimizer=optimizer)
    assert same(model.state_dict(), before)


def test_states_under_keys_that_no_group_has_are_no_silent_loss(tmp_path) -> None:
    _, optimizer = trained()
    state = optimizer.state_dict()
    state["state"] = {key + 100: value for key, value in state["state"].items()}
    with pytest.raises(MismatchError, match="nothing of it matches"):
        holdfast.load_state({"optimizer": state}, optimizer=fresh()[1])
    state["param_groups"] = []
    with pytest.raises(MismatchError):
        holdfast.load_state({"optimizer": state}, optimizer=fresh()[1])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_the_optimizer_of_a_folder_that_torch_wrote(tmp_path) -> None:
    """There the keys of states are text, and those in the groups whole numbers."""
    model, optimizer = trained()
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(tree, storage_writer=dcp.FileSystemWriter(tmp_path / "dcp"), no_dist=True)
    live, other = fresh()
    holdfast.load_state(tmp_path / "dcp", model=live, optimizer=other)
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_what_an_optimizer_keeps_at_large_is_handed_on(tmp_path) -> None:
    class Counting(Adam):
        def step(self, closure=None):
            kept = self.state.setdefault("at large", {"n": 0, "buffer": torch.zeros(2)})
            kept["n"] += 1
            super().step(closure)

    model = net()
    optimizer = Counting(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = net()
    other = Counting(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(other.state["at large"], optimizer.state["at large"])


def test_an_empty_group_is_a_group(tmp_path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Adam([{"params": [parameter]}, {"params": []}])
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    holdfast.load_state(tmp_path / "a.pt", optimizer=optimizer)


def test_of_an_optimizer_over_two_models_the_given_one_goes_by_name(tmp_path) -> None:
    g, d = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = Adam([*g.parameters(), *d.parameters()])
    (g(torch.ones(1, 3)).sum() + 5 * d(torch.ones(1, 3)).sum()).backward()
    optimizer.step()
    holdfast.save_state(tmp_path / "a.pt", G=g, D=d, o=optimizer)
    live, alone = nn.Linear(3, 3), nn.Linear(3, 3)
    other = Adam([*alone.parameters(), *live.parameters()])
    report = holdfast.load_state(tmp_path / "a.pt", G=live, o=other)
    assert same(other.state[live.weight], optimizer.state[g.weight])
    assert alone.weight not in other.state
    assert report["o"].notes == (
        "parameters of models that are not given have no names: they start fresh",
    )


def test_an_optimizer_of_a_model_without_memory_gets_its_state_where_the_model_is(tmp_path) -> None:
    model, optimizer = trained()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    with torch.device("meta"):
        live = net()
    other = Adam(live.parameters())
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_an_optimizer_of_parameters_without_memory_is_not_loaded_alone(tmp_path) -> None:
    _, optimizer = trained()
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    with torch.device("meta"):
        live = net()
    with pytest.raises(MismatchError, match="its parameters have no memory yet"):
        holdfast.load_state(tmp_path / "a.pt", optimizer=Adam(live.parameters()))


def test_a_lazy_state_in_a_dict_goes_into_a_lazy_model() -> None:
    live = nn.LazyLinear(4)
    holdfast.load_state({"model": nn.LazyLinear(4).state_dict()}, model=live)
    assert live.has_uninitialized_params()


def test_an_optimizer_of_a_lazy_model_that_has_no_state_yet(tmp_path) -> None:
    model = nn.Linear(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = nn.LazyLinear(4)
    other = torch.optim.SGD(live.parameters(), lr=0.1)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert same(live.state_dict(), model.state_dict())
    assert other.param_groups[0]["lr"] == 0.5


def test_buffers_that_stay_without_memory_are_named(tmp_path) -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("inv", torch.ones(2), persistent=False)

    holdfast.save_state(tmp_path / "a.pt", model=Rotary())
    with torch.device("meta"):
        live = Rotary()
    report = holdfast.load_model(tmp_path / "a.pt", live)
    assert report["model"].notes == (
        "inv is not in the checkpoint and stays without memory: make it again",
    )


def test_two_saved_tensors_that_become_one_are_named(tmp_path) -> None:
    model, live = net(), nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    live["b"].weight = live["a"].weight
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    holdfast.save_state(tmp_path / "a.pt", model=model)
    report = holdfast.load_state(tmp_path / "a.pt", model=live)
    assert report["model"].notes == (
        "b.weight is a.weight here, and two tensors in the checkpoint: the last one counts",
    )
    assert torch.equal(live["a"].weight, model["b"].weight)


def over_one_memory() -> nn.ModuleDict:
    """Two parameters that share their elements, as a tie is made by hand."""
    live = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    live["b"].weight = nn.Parameter(live["a"].weight.data)
    return live


def test_two_parameters_over_one_memory_are_as_one(tmp_path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "two.pt")
    by_torch, live = over_one_memory(), over_one_memory()
    by_torch.load_state_dict(model.state_dict())
    report = holdfast.load_state(tmp_path / "two.pt", model=live)
    assert same(live.state_dict(), by_torch.state_dict())
    assert report["model"].notes == (
        "b.weight is a.weight here, and two tensors in the checkpoint: the last one counts",
    )
    torch.save(live.state_dict(), tmp_path / "one.pt")
    assert holdfast.load_state(tmp_path / "one.pt", model=over_one_memory())["model"].notes == ()


def test_of_two_tensors_for_one_memory_the_last_counts_whichever_is_read_first(tmp_path) -> None:
    state = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}).state_dict()
    state["a.weight"] = state["a.weight"].double()  # cast, so it is read after all that are not
    torch.save(state, tmp_path / "a.pt")
    live = over_one_memory()
    holdfast.load_state(tmp_path / "a.pt", cast=True, model=live)
    assert torch.equal(live["a"].weight, state["b.weight"])


def test_autograd_notices_either_of_two_parameters_over_one_memory(tmp_path) -> None:
    live = over_one_memory()
    torch.save(live.state_dict(), tmp_path / "a.pt")
    before = [live[name].weight._version for name in "ab"]
    holdfast.load_state(tmp_path / "a.pt", model=live)
    after = [live[name].weight._version for name in "ab"]
    assert all(now > was for was, now in zip(before, after, strict=True))


def test_empty_tensors_are_not_over_one_memory(tmp_path) -> None:
    model = nn.Module()
    for name in ("a", "b"):
        model.register_buffer(name, torch.empty(0))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert holdfast.load_state(tmp_path / "a.pt", model=model)["model"].notes == ()


def test_memory_that_two_parts_share_is_named(tmp_path) -> None:
    a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    b.weight = nn.Parameter(a.weight.data)
    tree = {name: {"weight": torch.randn(2, 2)} for name in ("a", "b")}
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.load_state(tmp_path / "a.pt", a=a, b=b)
    assert report["b"].notes == (
        "weight is a.weight, and two tensors in the checkpoint: the last counts",
    )
    assert torch.equal(a.weight, tree["b"]["weight"])


def test_a_tensor_of_two_parts_that_was_saved_as_two_is_named(tmp_path) -> None:
    encoder = nn.Linear(2, 2)
    a, b = nn.Sequential(encoder), nn.Sequential(encoder)
    tree = {name: nn.Sequential(nn.Linear(2, 2)).state_dict() for name in ("a", "b")}
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.load_state(tmp_path / "a.pt", a=a, b=b)
    assert report["b"].notes == (
        "0.weight is a.0.weight, and two tensors in the checkpoint: the last counts",
        "0.bias is a.0.bias, and two tensors in the checkpoint: the last counts",
    )
    assert torch.equal(encoder.weight, tree["b"]["0.weight"])
    holdfast.save_state(tmp_path / "b.pt", a=a, b=b)
    assert holdfast.load_state(tmp_path / "b.pt", a=a, b=b)["b"].notes == ()


def test_two_parts_do_not_compete_for_one_state(tmp_path) -> None:
    torch.save({"netG": net().state_dict()}, tmp_path / "a.pt")
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(tmp_path / "a.pt", strict=False, D=net(), G=net())
    assert str(caught.value) == (
        "one state in this checkpoint may be that of 'D' or of 'G'\n"
        f"  in {tmp_path / 'a.pt'}\n"
        "  found netG\n"
        "  Say whose it is: select={'G': 'netG'}"
    )
    holdfast.load_state(tmp_path / "a.pt", strict=False, select={"G": "netG"}, D=net(), G=net())


def test_one_of_two_equal_submodules_of_a_lightning_model(tmp_path) -> None:
    student, teacher = net(), net()
    state = {f"student.{k}": v for k, v in student.state_dict().items()}
    state |= {f"teacher.{k}": v for k, v in teacher.state_dict().items()}
    torch.save({"pytorch-lightning_version": "2.5", "state_dict": state}, tmp_path / "a.ckpt")
    live = net()
    holdfast.load_state(tmp_path / "a.ckpt", teacher=live)
    assert same(live.state_dict(), teacher.state_dict())
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(tmp_path / "a.ckpt", model=live)
    assert caught.value.found == "state_dict.student; state_dict.teacher"
    assert caught.value.cure == "Say which: select={'model': 'state_dict.student'}"
    report = holdfast.load_state(
        tmp_path / "a.ckpt", model=live, select={"model": "state_dict.student"}
    )
    assert same(live.state_dict(), student.state_dict())
    assert report["model"].skipped[0] == ("teacher.0.weight", "outside student.*")


@pytest.mark.parametrize("kind", ["OneCycleLR", "SequentialLR", "MultiStepLR"])
def test_a_scheduler_with_dicts_in_its_state_is_one_state(kind, tmp_path) -> None:
    def make(optimizer):
        lr = torch.optim.lr_scheduler
        steps = [lr.ConstantLR(optimizer, 0.5, 2), lr.ExponentialLR(optimizer, 0.9)]
        return {
            "OneCycleLR": lambda: lr.OneCycleLR(optimizer, 1.0, 10),
            "SequentialLR": lambda: lr.SequentialLR(optimizer, steps, [2]),
            "MultiStepLR": lambda: lr.MultiStepLR(optimizer, [2, 4]),
        }[kind]()

    model, optimizer = trained()
    scheduler = make(optimizer)
    tree = {"model": model.state_dict(), "scheduler_state_dict": scheduler.state_dict()}
    torch.save(tree, tmp_path / "a.pt")
    live = make(fresh()[1])
    live.last_epoch = 7
    holdfast.load_state(tmp_path / "a.pt", sch=live)
    assert live.last_epoch == scheduler.last_epoch


@pytest.mark.parametrize("source", [None, 3, b"x", [1], nn.Linear(1, 1)], ids=repr)
def test_what_no_state_is_loaded_from(source) -> None:
    with pytest.raises(UsageError, match="a path, an open Checkpoint or a dict"):
        holdfast.load_state(source, model=net())


def test_a_closed_checkpoint_says_so(tmp_path) -> None:
    holdfast.save_state(tmp_path / "a.pt", model=net())
    with holdfast.open(tmp_path / "a.pt") as checkpoint:
        pass
    with pytest.raises(UsageError, match="this checkpoint is closed"):
        holdfast.load_state(checkpoint, model=net())


def test_a_live_model_in_a_dict_stands_for_its_state(tmp_path) -> None:
    model, live = net(), net()
    report = holdfast.load_state({"model": model, "epoch": 1, "lock": threading.Lock()}, model=live)
    assert same(live.state_dict(), model.state_dict())
    assert report.extra["epoch"] == 1


def test_a_dict_of_what_autograd_made_is_loaded(tmp_path) -> None:
    model, live = net(), net()
    state = {name: value * 1 for name, value in model.named_parameters()}
    holdfast.load_state({"model": state}, model=live)
    assert same(live.state_dict(), model.state_dict())


def test_numpy_arrays_become_tensors(tmp_path) -> None:
    model, live = net(), net()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "a.pt")
    for source in (tmp_path / "a.pt", {"model": state}):
        nn.init.zeros_(live[0].weight)
        holdfast.load_state(source, model=live)
        assert same(live.state_dict(), model.state_dict())
    state["0.weight"] = state["0.weight"].astype(np.float64)
    with pytest.raises(MismatchError, match=r"not cast: 0.weight from float64 to float32"):
        holdfast.load_state({"model": state}, model=live)


@pytest.mark.parametrize("value", [None, "x", [1, 2]])
def test_a_value_where_a_tensor_should_be(value, tmp_path) -> None:
    state = {**net().state_dict(), "0.weight": value}
    with pytest.raises(MismatchError, match=r"0.weight: saved a value, here \(5, 3\) float32"):
        holdfast.load_state({"model": state}, model=net())


class Stubborn:
    """A part whose state cannot be copied."""

    def state_dict(self):
        return {"lock": threading.Lock()}

    def load_state_dict(self, state):
        raise AssertionError("never reached")


def test_a_state_that_cannot_be_copied_is_named(tmp_path) -> None:
    torch.save({"odd": {"n": 1}}, tmp_path / "a.pt")
    for call in (
        lambda: holdfast.load_state(tmp_path / "a.pt", odd=Stubborn()),
        lambda: holdfast.snapshot(odd=Stubborn()),
    ):
        with pytest.raises(CaptureError, match="the state of 'odd' cannot be copied"):
            call()


class Refusing(nn.Linear):
    def load_state_dict(self, *args, **kwargs):
        raise ValueError("no")


def test_a_lazy_module_is_as_lazy_as_before_when_another_part_refuses(tmp_path) -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4))

    model = make()
    model(torch.ones(1, 2))
    holdfast.save_state(tmp_path / "a.pt", a=model, z=nn.Linear(1, 1))
    live = make()
    before = live[0].weight.detach().clone()
    with pytest.raises(MismatchError, match="'z' did not take the state"):
        holdfast.load_state(tmp_path / "a.pt", a=live, z=Refusing(1, 1))
    assert torch.equal(live[0].weight, before)
    assert live[1].has_uninitialized_params()
    holdfast.load_state(tmp_path / "a.pt", a=live)
    assert same(live.state_dict(), model.state_dict())


@pytest.mark.parametrize("live", [Adam([nn.Parameter(torch.ones(1))]), None, nn.Linear, "model"])
def test_load_model_takes_models_only(live, tmp_path) -> None:
    holdfast.save_state(tmp_path / "a.pt", model=net())
    with pytest.raises(UsageError, match=r"load_model\(\) loads into a model"):
        holdfast.load_model(tmp_path / "a.pt", live)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda name: name.split(".")[9], "the function that renames raised"),
        (lambda name: 3, "the function that renames gives text for text"),
    ],
)
def test_functions_that_do_not_rename(rule, words, tmp_path) -> None:
    with pytest.raises(UsageError, match=words):
        holdfast.load_state({"model": net().state_dict()}, rename=rule, model=net())


def test_a_rule_without_a_model_to_use_it_on_is_an_error(tmp_path) -> None:
    _, optimizer = trained()
    with pytest.raises(UsageError, match="a rule renames nothing"):
        holdfast.load_state({"o": optimizer.state_dict()}, rename={"a": "b"}, o=fresh()[1])


@pytest.mark.parametrize("key", [1, ("a", "b"), b"x"])
def test_keys_that_are_no_text_are_unexpected(key) -> None:
    state = {**net().state_dict(), key: torch.ones(1)}
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state({"model": state}, model=net())
    assert caught.value.report["model"].unexpected == (repr(key),)


@pytest.mark.parametrize("tree", [{}, {"model": {}}, {"model": None}, {1: 2}], ids=repr)
def test_trees_with_nothing_in_them(tree, tmp_path) -> None:
    torch.save(tree, tmp_path / "a.pt")
    for source in (tmp_path / "a.pt", tree):
        with pytest.raises(HoldfastError):
            holdfast.load_state(source, model=net())


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_sparse_tensor_and_a_dense_one_are_of_another_shape(tmp_path) -> None:
    model = nn.Linear(3, 2, bias=False)
    torch.save({"weight": torch.eye(3)[:2].to_sparse()}, tmp_path / "a.pt")
    words = r"saved \(2, 3\) sparse_coo float32, here \(2, 3\) float32"
    with pytest.raises(MismatchError, match=words):
        holdfast.load_state(tmp_path / "a.pt", model=model)
    live = nn.Module()
    live.register_buffer("weight", torch.zeros(2, 3).to_sparse())
    holdfast.load_state(tmp_path / "a.pt", model=live)
    assert torch.equal(live.weight.to_dense(), torch.eye(3)[:2])


def test_a_lazy_model_takes_what_is_there_of_any_type(tmp_path) -> None:
    torch.save({"weight": torch.ones(4, 2), "bias": torch.ones(4)}, tmp_path / "a.pt")
    live = nn.LazyLinear(4)
    report = holdfast.load_state(tmp_path / "a.pt", model=live)
    assert torch.equal(live.weight, torch.ones(4, 2))
    assert report["model"].cast == ()
