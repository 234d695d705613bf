"""Modules with code of their own around their states: what torch gives them, they get here."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import holdfast
from holdfast.errors import MismatchError
from holdfast.state.equal import same


class Scaled(nn.Module):
    """A module that derives something from its weights when it is given its extra state."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), start))
        self.register_buffer("mean", torch.full((3,), start))
        self.scale = start
        self.ready: torch.Tensor | None = None

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]
        self.ready = (self.weight.detach() - self.mean) * self.scale


def test_extra_state_is_set_when_the_weights_are_there(tmp_path) -> None:
    saved = nn.Sequential(nn.Linear(3, 3), Scaled(2.0))
    nn.init.ones_(saved[1].mean)
    torch.save(saved.state_dict(), tmp_path / "a.pt")
    by_torch, live = (nn.Sequential(nn.Linear(3, 3), Scaled(0.0)) for _ in range(2))
    by_torch.load_state_dict(torch.load(tmp_path / "a.pt"))
    report = holdfast.load_state(tmp_path / "a.pt", model=live)
    assert report["model"].loaded == 5
    assert live[1].ready.tolist() == by_torch[1].ready.tolist() == [2, 2, 2]
    assert torch.equal(live[0].weight, saved[0].weight)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.BatchNorm1d(2), Scaled(1.0))
        self.heads = nn.ModuleList([nn.Linear(2, 2)])


class Dropping(Whole):
    """A module whose state dict leaves its frozen encoder out, as people write it."""

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if "encoder." not in name}


def dropping_by_hook() -> nn.Module:
    def drop(module, state, prefix, local_metadata) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}encoder.")]:
            del state[name]

    inside = Whole()
    inside.register_state_dict_post_hook(drop)
    return nn.Sequential(inside)


MAKERS = {"an override": Dropping, "a hook inside": dropping_by_hook}
SOURCES = {"a path": lambda path: path, "a dict": torch.load}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_what_a_state_dict_leaves_out_stays_as_it_is(source, strict, make, tmp_path) -> None:
    saved, live = make(), make()
    torch.save(saved.state_dict(), tmp_path / "a.pt")
    before = copy.deepcopy([*live.buffers()])
    report = holdfast.load_state(source(tmp_path / "a.pt"), strict=strict, model=live)
    assert (report["model"].loaded, report["model"].missing) == (2, ())
    assert same(live.state_dict(), saved.state_dict())
    assert same([*live.buffers()], before)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_module_that_leaves_something_out_gets_its_state_back(make) -> None:
    live = make()
    before = copy.deepcopy(live.state_dict())
    best = holdfast.snapshot(model=live)
    for parameter in live.parameters():
        nn.init.zeros_(parameter)
    best.restore()
    assert same(live.state_dict(), before)


def test_what_a_module_does_save_it_is_still_to_get() -> None:
    live = Dropping()
    best = holdfast.snapshot(model=live)
    live.heads.append(nn.Linear(2, 2))
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(MismatchError) as caught:
        best.restore()
    assert str(caught.value) == (
        "'model' did not take the state that was saved; nothing was changed\n"
        "  found RuntimeError: missing: ['heads.1.weight', 'heads.1.bias']; not expected: []\n"
        "  Look at Dropping.load_state_dict(), or leave the part out."
    )
    assert same(live.state_dict(), before)


def with_old_norm(outputs: int) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Linear(4, outputs))


def with_new_norm(outputs: int) -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, outputs))


def test_names_that_own_code_knows_are_taken_beside_a_new_head(tmp_path) -> None:
    saved, live = with_old_norm(10), with_new_norm(3)
    torch.save(saved.state_dict(), tmp_path / "a.pt")
    head = copy.deepcopy(live[1].state_dict())
    report = holdfast.load_state(tmp_path / "a.pt", strict="shapes", model=live)["model"]
    assert (report.loaded, report.missing, report.unexpected) == (3, (), ())
    assert [name for name, _, _ in report.differing] == ["1.weight", "1.bias"]
    by_torch = with_new_norm(10)
    by_torch.load_state_dict(torch.load(tmp_path / "a.pt"))
    assert same(live[0].state_dict(), by_torch[0].state_dict())
    assert same(live[1].state_dict(), head)


def test_a_new_head_alone_is_what_the_letter_speaks_of(tmp_path) -> None:
    torch.save(with_old_norm(10).state_dict(), tmp_path / "a.pt")
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(tmp_path / "a.pt", model=with_new_norm(3))
    report = caught.value.report["model"]
    assert (report.missing, report.unexpected, len(report.differing)) == ((), (), 2)


def _loaded_twice(tmp_path, make) -> tuple[nn.Module, nn.Module]:
    """The same state by torch and by holdfast, in two modules of a kind."""
    torch.manual_seed(0)
    torch.save(make().state_dict(), tmp_path / "a.pt")
    by_torch, live = make(), make()
    by_torch.load_state_dict(torch.load(tmp_path / "a.pt"))
    holdfast.load_state(tmp_path / "a.pt", model=live)
    return by_torch, live


def test_a_hook_of_one_layer_is_told_what_is_missing_anywhere_as_torch_does(tmp_path) -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

        def reset(module: nn.Module, keys) -> None:
            if keys.missing_keys:
                module.weight.data.zero_()

        model[1].register_load_state_dict_post_hook(reset)
        return model

    by_torch, live = _loaded_twice(tmp_path, make)
    assert same(live.state_dict(), by_torch.state_dict())
    assert live[1].weight.any()


@pytest.mark.parametrize("way", ["hook", "extra state"])
def test_code_of_one_layer_sees_the_loaded_weights_of_those_before_it(way, tmp_path) -> None:
    class Summing(nn.Module):
        def __init__(self, other: nn.Module) -> None:
            super().__init__()
            self.__dict__["other"] = other
            self.sum = 0.0

        def look(self, *_) -> None:
            self.sum = float(self.other.weight.detach().sum())

    class Deriving(Summing):
        def get_extra_state(self):
            return 1

        def set_extra_state(self, state):
            self.look()

    def make() -> nn.Module:
        first = nn.Linear(2, 2)
        second = Summing(first) if way == "hook" else Deriving(first)
        if way == "hook":
            second.register_load_state_dict_post_hook(Summing.look)
        return nn.Sequential(first, second)

    by_torch, live = _loaded_twice(tmp_path, make)
    assert live[1].sum == by_torch[1].sum == float(live[0].weight.detach().sum()) != 0


class Adding(nn.Module):
    """Loading code that changes what it is given each time, whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_load_state_dict_pre_hook(self._add)

    @staticmethod
    def _add(module, state, prefix, *_) -> None:
        state[f"{prefix}inner.weight"] = state[f"{prefix}inner.weight"] + 1


def test_what_is_undone_is_as_it_was_whatever_loading_code_does(tmp_path) -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def _load_from_state_dict(self, state, prefix, *rest):
            if state[f"{prefix}w"] == 0:
                raise ValueError("no")

    live, bad = Adding(), Bad()
    holdfast.save_state(tmp_path / "a.pt", model=Adding(), bad=bad)
    nn.init.ones_(bad.w)
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(MismatchError, match="nothing was changed"):
        holdfast.load_state(tmp_path / "a.pt", model=live, bad=bad)
    assert same(live.state_dict(), before)


def test_a_snapshot_is_put_back_as_it_was_whatever_loading_code_does() -> None:
    live = Adding()
    before = copy.deepcopy(live.state_dict())
    snapshot = holdfast.snapshot(model=live)
    for _ in range(2):
        nn.init.zeros_(live.inner.weight)
        snapshot.restore()
        assert same(live.state_dict(), before)
