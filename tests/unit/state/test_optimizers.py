"""What torch's own loading of optimizer state loses, and states of another class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import MismatchError
from holdfast.state.optimizers import other_kind


class Master(torch.optim.Optimizer):
    """Keeps a float32 copy of bfloat16 weights, as mixed-precision training does."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["master"] = weight.float().clone()
                    state["nested"] = {"momentum": torch.zeros_like(state["master"])}
                state["nested"]["momentum"].mul_(0.9).add_(weight.grad.float())
                state["master"].sub_(group["lr"] * state["nested"]["momentum"])
                weight.copy_(state["master"])


def stepped(model, optimizer, times):
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.ones(4, 3, dtype=torch.bfloat16)).float().pow(2).sum().backward()
        optimizer.step()


def test_float32_state_of_a_bfloat16_parameter_is_not_rounded(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    optimizer = Master(model.parameters())
    stepped(model, optimizer, 3)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    stepped(model, optimizer, 3)

    again = nn.Linear(3, 2, dtype=torch.bfloat16)
    resumed = Master(again.parameters())
    holdfast.load_state(tmp_path / "a.pt", model=again, optimizer=resumed)
    state = resumed.state[again.weight]
    assert state["master"].dtype == state["nested"]["momentum"].dtype == torch.float32
    stepped(again, resumed, 3)
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(state["master"], optimizer.state[model.weight]["master"])


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    model = nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters())
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=adam)
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    before = repr(sgd.state_dict())
    with pytest.raises(MismatchError, match="the state of another class") as caught:
        holdfast.load_state(tmp_path / "a.pt", model=model, optimizer=sgd)
    assert "only the checkpoint has amsgrad, betas" in str(caught.value)
    assert "dampening, momentum" in str(caught.value)
    assert repr(sgd.state_dict()) == before


def test_the_state_of_another_scheduler_is_refused(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    holdfast.save_state(tmp_path / "a.pt", model=model, scheduler=steps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    with pytest.raises(MismatchError, match="only the checkpoint has gamma, step_size"):
        holdfast.load_state(tmp_path / "a.pt", model=model, scheduler=cosine)
    assert not hasattr(cosine, "gamma")


def test_keys_that_one_version_of_torch_adds_are_no_reason():
    assert other_kind({"lr": 1, "betas": 2}, {"lr": 1, "betas": 2, "fused": None}) is None
    assert other_kind({"lr": 1, "fused": None}, {"lr": 1}) is None
    assert other_kind({"lr": 1, "initial_lr": 1}, {"lr": 1, "fused": None}) is None
