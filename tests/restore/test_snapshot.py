"""The best state so far, kept in memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import MismatchError, UsageError
from holdfast.state.equal import same


def training() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(2, 2)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_the_best_state_does_not_go_on_training() -> None:
    """The trap of the tutorial: ``best = model.state_dict()`` holds references."""
    model, optimizer = training()
    step(model, optimizer)
    trap = model.state_dict()
    best = holdfast.snapshot(model=model, optimizer=optimizer)
    wanted = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    step(model, optimizer)
    assert same(trap, model.state_dict())
    best.restore()
    assert same((model.state_dict(), optimizer.state_dict()), wanted)


def test_it_can_be_put_back_again_and_again() -> None:
    model, optimizer = training()
    step(model, optimizer)
    best = holdfast.snapshot(model=model, optimizer=optimizer)
    wanted = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for _ in range(3):
        step(model, optimizer)
        best.restore()
        assert same((model.state_dict(), optimizer.state_dict()), wanted)


def test_it_needs_parts() -> None:
    with pytest.raises(UsageError, match=r"snapshot\(\) got no live object"):
        holdfast.snapshot()


def test_parameters_that_came_later_are_told() -> None:
    model, optimizer = training()
    step(model, optimizer)
    best = holdfast.snapshot(model=model, optimizer=optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    step(model, optimizer)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(MismatchError, match=r"parameters per group: \[2\] in the state, \[2, 1\]"):
        best.restore()
    assert same((model.state_dict(), optimizer.state_dict()), before)
