"""The global generators go on where they were, and what could not be set is named."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

import holdfast
from holdfast.errors import MismatchError
from holdfast.state.rng import capture_rng, restore_rng


def draw():
    return (
        *(random.random(), random.gauss(0, 1)),
        *(np.random.rand(), np.random.standard_normal()),
        *torch.rand(2).tolist(),
        torch.randn(1).item(),
    )


def test_every_generator_goes_on_where_it_was():
    draw()  # an odd count of normal draws: the second of each pair waits inside
    before = capture_rng()
    first = draw()
    assert draw() != first
    assert restore_rng(before) == []
    assert draw() == first


def test_a_captured_state_is_a_copy():
    before = capture_rng()
    kept = copy.deepcopy(before)
    draw()
    np.random.rand(1000)
    torch.rand(10_000)
    assert repr(before) == repr(kept)


def test_what_the_checkpoint_does_not_have_keeps_its_state_and_is_named():
    now = capture_rng()
    assert restore_rng({}) == [
        "Python's generator: not in the checkpoint",
        "NumPy's generator: not in the checkpoint",
        "torch's CPU generator: not in the checkpoint",
    ]
    assert repr(capture_rng()) == repr(now)


def test_devices_that_are_not_here_are_named():
    if torch.cuda.is_available() or torch.xpu.is_available():
        pytest.skip("needs a GPU to be absent")
    state = {**capture_rng(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 2, "xpu": []}
    assert restore_rng(state) == [
        "the generator of cuda:0: this machine has 0 such devices",
        "the generator of cuda:1: this machine has 0 such devices",
    ]


def test_numpy_has_the_same_generator_after_another_kind_was_chosen(tmp_path):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        holdfast.save_state(tmp_path / "a.pt", model=torch.nn.Linear(1, 1))
        first = np.random.rand(3).tolist()
        holdfast.load_state(tmp_path / "a.pt", rng=True, model=torch.nn.Linear(1, 1))
        assert np.random.rand(3).tolist() == first
    finally:
        np.random.set_bit_generator(before)


BROKEN = {
    "python": {"version": 3, "words": np.zeros(3, np.uint32), "gauss": None},
    "numpy": {"bit_generator": "MT19937", "state": 5},
    "torch": torch.zeros(3, dtype=torch.uint8),
}


@pytest.mark.parametrize("which", BROKEN)
def test_a_state_that_no_generator_takes_changes_nothing(tmp_path, which):
    """Files of other code may have something else under this name."""
    model = torch.nn.Linear(2, 2)
    tree = {"model": torch.nn.Linear(2, 2).state_dict(), "rng": {**capture_rng(), **BROKEN}}
    tree["rng"] = {**capture_rng(), which: BROKEN[which]}
    tree["rng"]["python"]["words"] = torch.from_numpy(tree["rng"]["python"]["words"])
    if which != "numpy":
        del tree["rng"]["numpy"]
    torch.save(tree, tmp_path / "a.pt")
    weights, generators = model.weight.detach().clone(), repr(capture_rng())
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(tmp_path / "a.pt", rng=True, model=model)
    assert str(caught.value).startswith(
        "the random generators did not take the state that was saved; nothing was changed\n  found "
    )
    assert str(caught.value).endswith(
        "\n  load_state() without rng=True leaves the generators as they are."
    )
    assert torch.equal(model.weight, weights)
    assert repr(capture_rng()) == generators


@pytest.mark.parametrize("value", [5, torch.zeros(3), [1, 2]], ids=repr)
def test_another_kind_of_value_under_the_name_rng_is_refused(tmp_path, value):
    model = torch.nn.Linear(2, 2)
    torch.save({"model": model.state_dict(), "rng": value}, tmp_path / "a.pt")
    with pytest.raises(MismatchError, match="the random generators did not take the state"):
        holdfast.load_state(tmp_path / "a.pt", rng=True, model=model)
    holdfast.load_state(tmp_path / "a.pt", model=model)
