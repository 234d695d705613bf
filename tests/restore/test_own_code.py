"""Modules with code of their own around their states: what torch gives them, they get here."""

from __future__ import annotations

import torch
from torch import nn

import holdfast


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
