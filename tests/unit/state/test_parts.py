"""What can be a part, and what is told to whoever gives something else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast
from holdfast.errors import CaptureError, UsageError
from holdfast.state.parts import RESERVED, as_part, as_parts

# torchdata calls a name of torch's that has no more use.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

SGD = torch.optim.SGD


class Counter:
    def __init__(self):
        self.n = 0

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def optimizer():
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


KINDS = {
    "module": lambda: torch.nn.Linear(1, 1),
    "optimizer": optimizer,
    "scheduler": lambda: torch.optim.lr_scheduler.StepLR(optimizer(), 1),
    "scaler": lambda: torch.amp.GradScaler("cpu"),
    "scheduler  ": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer()),
    "loader": lambda: StatefulDataLoader([1, 2]),
    "generator": torch.Generator,
    "generator ": lambda: np.random.default_rng(0),
    "generator  ": lambda: random.Random(0),
    "state": Counter,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_known(kind):
    assert as_part("x", KINDS[kind]()).kind == kind.strip()


@pytest.mark.parametrize("kind", ["scheduler", "scaler", "loader", "generator"])
def test_what_is_small_and_stepped_by_hand_is_watched(kind):
    assert as_part("x", KINDS[kind]()).is_watched
    assert not as_part("x", KINDS["module"]()).is_watched
    assert not as_part("x", KINDS["optimizer"]()).is_watched


def test_restores_run_from_what_may_refuse_to_what_is_drawn_from():
    order = ["state", "module", "loader", "generator"]
    stages = [as_part("x", KINDS[kind]()).stage for kind in order]
    assert stages == sorted(set(stages))


def test_a_part_that_is_none_is_absent():
    assert as_parts({"scaler": None}) == {}
    assert list(as_parts({"a": Counter(), "scaler": None})) == ["a"]


def test_the_order_given_is_kept():
    assert list(as_parts({"b": Counter(), "a": torch.nn.Linear(1, 1)})) == ["b", "a"]


@pytest.mark.parametrize("name", [*sorted(RESERVED), "_hidden"])
def test_names_with_a_meaning_of_their_own_are_refused(name):
    with pytest.raises(UsageError) as caught:
        as_parts({name: Counter()})
    assert str(caught.value) == (
        f"a part cannot be called {name!r}: that name has a meaning of its own\n"
        f"  Call it something else, such as '{name.strip('_')}_state'."
    )


def test_rng_extra_and_every_option_of_the_door_are_reserved():
    import inspect

    import holdfast

    functions = (holdfast.Run.__init__, holdfast.save_state, holdfast.load_state, holdfast.Run.load)
    options = {
        parameter.name
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert options | {"rng", "ranks", "extra"} <= RESERVED


def letter(live):
    with pytest.raises(CaptureError) as caught:
        as_part("thing", live)
    return str(caught.value)


WANTED = (
    "'thing' cannot be a part\n"
    "  wanted a module, an optimizer, a generator, or an object with state_dict and "
    "load_state_dict, found "
)


def test_a_plain_loader_is_refused_with_the_line_to_write():
    assert letter(torch.utils.data.DataLoader([1])) == (
        "'thing' is a plain DataLoader, which cannot say where it is\n"
        "  wanted torchdata's StatefulDataLoader, found torch.utils.data.DataLoader\n"
        "  from torchdata.stateful_dataloader import StatefulDataLoader\n"
        "  thing = StatefulDataLoader(dataset, ...)   # the same arguments\n"
        "  If you save at the end of epochs only, leave the loader out: that resumes exactly\n"
        "  (but not with persistent_workers=True: they draw their seeds once, at the start)."
    )


def test_a_class_is_refused():
    assert letter(SGD) == f"{WANTED}the class SGD itself\n  Give an instance of it."


class Half:
    def state_dict(self):
        return {}


@pytest.mark.parametrize(
    ("live", "found"),
    [
        (3, "builtins.int, without state_dict and load_state_dict"),
        ("path.pt", "builtins.str, without state_dict and load_state_dict"),
        ({"a": 1}, "builtins.dict, without state_dict and load_state_dict"),
        (torch.zeros(1), "torch.Tensor, without state_dict and load_state_dict"),
        (Half(), f"{Half.__module__}.Half, without load_state_dict"),
    ],
)
def test_values_without_a_state_are_refused(live, found):
    assert letter(live) == (
        f"{WANTED}{found}\n"
        "  Plain values go into run.extra, or extra= of save_state, and come back in report.extra; "
        "other objects need both."
    )


@pytest.mark.parametrize("live", [[nn.Linear(1, 1)], ({"a": 1}, Half()), {"a": nn.Linear(1, 1)}])
def test_parts_in_a_list_or_dict_need_names_of_their_own(live):
    assert letter(live) == (
        f"{WANTED}builtins.{type(live).__name__}, without state_dict and load_state_dict\n"
        "  Give each object in it as a part of its own: thing_1=..., thing_2=..."
    )


def test_the_letter_of_loading_does_not_speak_of_saving(tmp_path):
    holdfast.save_state(tmp_path / "a.pt", model=nn.Linear(1, 1))
    with pytest.raises(CaptureError) as caught:
        holdfast.load_state(tmp_path / "a.pt", model="model")
    assert caught.value.what == "'model' cannot be a part"


def test_a_state_dict_that_raises_is_named():
    class Broken(Counter):
        def state_dict(self):
            raise RuntimeError("not yet")

    with pytest.raises(CaptureError) as caught:
        as_part("thing", Broken()).capture()
    assert str(caught.value) == (
        "the state of 'thing' could not be read: its state_dict() raised\n"
        "  found RuntimeError: not yet\n"
        f"  Look at {Broken.__qualname__}.state_dict()."
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_generator_without_a_state_is_named():
    with pytest.raises(CaptureError) as caught:
        as_part("dice", random.SystemRandom()).capture()
    assert str(caught.value) == (
        "the state of 'dice' could not be read: its getstate() raised\n"
        "  found NotImplementedError: System entropy source does not have state.\n"
        "  Look at SystemRandom.getstate()."
    )


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("generator")])
def test_a_generator_goes_on_where_it_was(kind):
    live = KINDS[kind]()
    part = as_part("g", live)

    def draw():
        if isinstance(live, torch.Generator):
            return torch.rand(3, generator=live).tolist()
        return [live.random() for _ in range(3)]

    before = part.copy()
    first = draw()
    assert draw() != first
    part.restore(before)
    assert draw() == first


def test_a_numpy_generator_of_another_kind_is_refused_and_keeps_its_state():
    from holdfast.errors import MismatchError
    from holdfast.state.restore import restore

    live = np.random.Generator(np.random.MT19937(1))
    part = as_part("g", live)
    before = part.copy()
    with pytest.raises(MismatchError) as caught:
        restore({"g": part}, {"g": np.random.default_rng(0).bit_generator.state}, None)
    assert str(caught.value) == (
        "'g' did not take the state that was saved; nothing was changed\n"
        "  found ValueError: state must be for a MT19937 PRNG\n"
        "  Look at Generator.bit_generator.state, or leave the part out."
    )
    assert repr(part.copy()) == repr(before)


def test_a_state_that_is_none_is_an_error_at_construction(tmp_path):
    class Empty:
        def state_dict(self):
            return None

        def load_state_dict(self, state):
            raise AssertionError

    with pytest.raises(CaptureError) as caught:
        holdfast.Run(tmp_path, own=Empty())
    assert caught.value.what == "'own' has no state: its state_dict() returned None"
