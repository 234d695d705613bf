"""A restore happens wholly or touches nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast
from holdfast.errors import HoldfastError, MismatchError
from holdfast.state.capture import capture
from holdfast.state.equal import differences, same
from holdfast.state.parts import as_parts
from holdfast.state.restore import restore

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


class Stubborn:
    """Refuses some numbers, after it has taken them; may have no state to show either."""

    def __init__(self, *, refuses=(), is_readable=True, error=RuntimeError):
        self.refuses, self.is_readable, self.error, self.n = refuses, is_readable, error, 1

    def state_dict(self):
        if not self.is_readable:
            raise RuntimeError("cannot be read")
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]
        if self.n in self.refuses:
            raise self.error(f"no {self.n}")


class HalfTaking(nn.Linear):
    """Copies half of its state before it refuses, as strict loading does."""

    def load_state_dict(self, state, *args, **kwargs):
        with torch.no_grad():
            self.weight.copy_(state["weight"])
        if not torch.equal(self.weight[0, 0], torch.tensor(7.0)):
            return super().load_state_dict(state, *args, **kwargs)
        raise ValueError("a seven")


def trained(seed, steps=3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01 * (seed + 1))
    parts = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "scaler": torch.amp.GradScaler("cpu", growth_interval=2),
        "ema": torch.optim.swa_utils.AveragedModel(model),
        "loader": StatefulDataLoader(list(range(10)), shuffle=True),
        "dice": torch.Generator().manual_seed(seed),
    }
    for _ in range(steps):
        optimizer.zero_grad()
        parts["scaler"].scale(model(torch.randn(8, 3)).square().mean()).backward()
        parts["scaler"].step(optimizer)
        parts["scaler"].update()
        parts["scheduler"].step()
        parts["ema"].update_parameters(model)
    for _ in zip(range(steps), parts["loader"], strict=False):
        pass
    return parts


def frozen(parts):
    return copy.deepcopy(capture(as_parts(parts), {}).tree)


def test_everything_is_restored_to_the_last_bit():
    saved = frozen(trained(1))
    other = trained(2, steps=1)
    restore(as_parts(other), saved, saved["rng"])
    assert differences(saved, frozen(other)) == []


@pytest.mark.parametrize("last", ["model", "ema", "scaler", "loader", "dice", "rng"])
def test_when_a_later_part_refuses_all_are_as_they_were(last):
    """Every tensor and number of every part, and the generators, compared before and after."""
    saved, live = frozen(trained(1)), trained(2)
    if last in ("model", "ema"):
        saved[last].popitem()
    elif last == "scaler":
        saved[last] = {}
    elif last == "loader":
        saved[last] = {"not": "a position"}
    elif last == "dice":
        saved[last] = torch.zeros(3, dtype=torch.uint8)
    else:
        saved[last]["torch"] = torch.zeros(3, dtype=torch.uint8)
    before = frozen(live)
    with pytest.raises(MismatchError):
        restore(as_parts(live), saved, saved["rng"])
    assert differences(before, frozen(live)) == []


def test_the_error_names_the_part_and_what_it_said():
    odd = Stubborn(refuses=[8])
    with pytest.raises(MismatchError) as caught:
        restore(as_parts({"odd": odd}), {"odd": {"n": 8}}, None)
    assert odd.n == 1
    assert str(caught.value) == (
        "'odd' did not take the state that was saved; nothing was changed\n"
        "  found RuntimeError: no 8\n"
        f"  Look at {Stubborn.__qualname__}.load_state_dict(), or leave the part out."
    )


def test_a_part_that_refused_halfway_gets_its_former_state_back():
    live = HalfTaking(2, 2)
    before = copy.deepcopy(live.state_dict())
    saved = {"weight": torch.full((2, 2), 7.0), "bias": torch.zeros(2)}
    with pytest.raises(MismatchError, match="a seven"):
        restore(as_parts({"model": live}), {"model": saved}, None)
    assert same(before, live.state_dict())


def test_a_part_whose_present_state_cannot_be_read_changes_nothing():
    """Without it there would be no way back."""
    first, model = Stubborn(), nn.Linear(2, 2)
    parts = {"first": first, "second": Stubborn(is_readable=False), "model": model}
    before = copy.deepcopy(model.state_dict())
    saved = {"first": {"n": 8}, "second": {"n": 9}, "model": nn.Linear(2, 2).state_dict()}
    with pytest.raises(HoldfastError, match="the state of 'second' could not be read"):
        restore(as_parts(parts), saved, None)
    assert first.n == 1
    assert same(before, model.state_dict())


def test_an_interruption_changes_nothing():
    parts = {"first": Stubborn(), "second": Stubborn(refuses=[9], error=KeyboardInterrupt)}
    with pytest.raises(KeyboardInterrupt):
        restore(as_parts(parts), {"first": {"n": 8}, "second": {"n": 9}}, None)
    assert [part.n for part in parts.values()] == [1, 1]


def test_a_part_that_does_not_take_its_former_state_back_is_named_and_the_others_have_theirs():
    parts = {"first": Stubborn(), "second": Stubborn(refuses=[1]), "third": Stubborn(refuses=[7])}
    with pytest.raises(MismatchError) as caught:
        restore(as_parts(parts), {name: {"n": 7} for name in parts}, None)
    assert str(caught.value) == (
        "'third' did not take the state that was saved, and then 'second' did not take back its "
        "own\n"
        "  found RuntimeError: no 1\n"
        "  Load a state that fits before going on. All other parts are as they were."
    )
    assert parts["first"].n == 1


class Stream(torch.utils.data.IterableDataset):
    """Counts on, and keeps its place."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 8:
            self.at += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


LOADERS = {
    "shuffled": lambda: StatefulDataLoader(list(range(8)), shuffle=True),
    "with a generator": lambda: StatefulDataLoader(
        list(range(8)), shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "stateful dataset": lambda: StatefulDataLoader(Stream(), batch_size=None),
}


@pytest.mark.parametrize("refuses", ["the loader", "another part"])
@pytest.mark.parametrize("seen", [0, 3])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_goes_on_as_if_nothing_had_been_refused(kind, seen, refuses):
    other = LOADERS[kind]()
    for _ in zip(range(5), other, strict=False):
        pass
    state = other.state_dict() if refuses == "another part" else {"not": "a position"}

    def draws(is_refused):
        torch.manual_seed(0)
        loader = LOADERS[kind]()
        running = iter(loader) if seen else None
        first = [int(next(running)) for _ in range(seen)]
        if is_refused:
            parts = {"loader": loader, "odd": torch.Generator()}
            with pytest.raises(MismatchError):
                restore(as_parts(parts), {"loader": state, "odd": torch.zeros(1)}, None)
        rest = [int(item) for item in running] if running is not None else []
        return first, rest, [int(item) for item in loader], torch.rand(1).item()

    assert draws(is_refused=True) == draws(is_refused=False)


@pytest.fixture
def parameters_stay_the_same_objects():
    """As they do between CPU and GPU; between CPU and meta torch would make new ones."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


def step_on(parts):
    """One step; the devices of the moments, and of the counts of steps."""
    model, optimizer = parts["model"], parts["optimizer"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = optimizer.state.values()
    return tuple({state[key].device.type for state in states} for key in ("exp_avg", "step"))


@pytest.mark.usefixtures("parameters_stay_the_same_objects")
@pytest.mark.parametrize("order", ["to, load", "load, to"])
def test_optimizer_state_is_on_its_parameters_device_whatever_the_order(order):
    saved = frozen({k: v for k, v in trained(1).items() if k in ("model", "optimizer")})
    live = {k: v for k, v in trained(2).items() if k in ("model", "optimizer")}
    acts = {
        "to": lambda: live["model"].to("meta"),
        "load": lambda: restore(as_parts({"optimizer": live["optimizer"]}), saved, None),
    }
    for act in order.split(", "):
        acts[act]()
    # torch keeps the count of steps on the CPU.
    assert step_on(live) == ({"meta"}, {"cpu"})


@pytest.mark.usefixtures("parameters_stay_the_same_objects")
def test_state_follows_once_and_not_for_ever():
    saved = frozen({k: v for k, v in trained(1).items() if k in ("model", "optimizer")})
    live = {k: v for k, v in trained(2).items() if k in ("model", "optimizer")}
    restore(as_parts(live), saved, None)
    step_on(live)
    live["model"].to("meta")
    with pytest.raises(RuntimeError):  # torch's own error, as without holdfast
        step_on(live)


def test_a_restored_optimizer_can_still_be_copied_and_pickled():
    import pickle

    live = {k: v for k, v in trained(2).items() if k in ("model", "optimizer")}
    restore(as_parts(live), frozen(live), None)
    step_on(live)
    assert copy.deepcopy(live["optimizer"]).state_dict()["state"]
    assert pickle.loads(pickle.dumps(live["optimizer"])).state_dict()["state"]


def test_a_state_saved_is_a_copy_that_training_does_not_change(tmp_path):
    parts = {k: v for k, v in trained(1).items() if k != "loader"}
    extra = {"tensor": torch.zeros(3), "list": [1]}
    holdfast.save_state(tmp_path / "a.pt", extra=extra, **parts)
    before = torch.load(tmp_path / "a.pt", weights_only=True)
    for parameter in parts["model"].parameters():
        parameter.data.fill_(5)
    parts["optimizer"].step()
    extra["tensor"].fill_(1)
    after = torch.load(tmp_path / "a.pt", weights_only=True)
    assert differences(before, after) == []
    holdfast.load_state(tmp_path / "a.pt", **parts)
    assert (
        differences(before, {**frozen(parts), "rng": before["rng"], "extra": before["extra"]}) == []
    )


def test_a_restored_state_is_a_copy_that_the_next_restore_does_not_see(tmp_path):
    parts = {k: v for k, v in trained(1).items() if k != "loader"}
    run = holdfast.Run(tmp_path, **parts)
    run.save(0)
    run.resume()
    first = frozen(parts)
    for group in parts["optimizer"].param_groups:
        for parameter in group["params"]:
            parts["optimizer"].state[parameter]["exp_avg"].fill_(9)
    run.resume()
    assert differences(first, frozen(parts)) == []
    run.close()
