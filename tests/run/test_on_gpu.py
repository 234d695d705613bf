"""Saving from a GPU: copies on streams of their own, the state at the call, and back again."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.state.equal import same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

_WIDTH = 2048


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.BatchNorm1d(_WIDTH)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(64, _WIDTH, device="cuda")).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_state_is_that_at_the_call_though_training_goes_on_at_once(tmp_path) -> None:
    model, optimizer = trained()
    wanted = []
    with holdfast.Run(tmp_path, keep=None, model=model, optimizer=optimizer) as run:
        for number in range(20):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            wanted.append(copy.deepcopy(state))
            run.save(number)
            for _ in range(3):
                step(model, optimizer)
    for number, state in enumerate(wanted):
        found = torch.load(tmp_path / f"step-{number:08d}.pt")
        assert same({name: found[name] for name in state}, state)


def test_the_memory_is_pinned_once_and_given_back(tmp_path) -> None:
    model, optimizer = trained()
    run = holdfast.Run(tmp_path, model=model, optimizer=optimizer, background=True)
    run.save(0)
    background = run._writer._background
    arena = background._arena
    assert torch.frombuffer(arena.memory, dtype=torch.uint8).is_pinned()
    run.save(1)
    assert background._arena is arena
    address = torch.frombuffer(arena.memory, dtype=torch.uint8).data_ptr()
    del arena
    run.close()
    assert background._arena is None
    assert not is_mapped(address)


def is_mapped(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return True
    return False


def test_the_call_returns_while_the_gpu_has_not_come_to_the_copy(tmp_path) -> None:
    model, optimizer = trained()
    with holdfast.Run(tmp_path, keep=None, model=model, optimizer=optimizer) as run:
        run.save(0, wait=True)  # the memory is made and pinned
        torch.cuda._sleep(4_000_000_000)  # cycles: more than a second
        pending = run.save(1)
        assert not torch.cuda.current_stream().query()  # what was queued before is not over
        assert not pending.done
    assert holdfast.verify(tmp_path).ok


def test_state_comes_back_to_the_gpu_and_the_next_step_is_the_same(tmp_path) -> None:
    model, optimizer = trained()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live, other = trained()
    holdfast.load_state(tmp_path / "a.pt", rng=True, model=live, optimizer=other)
    assert all(p.is_cuda for p in live.parameters())
    assert same(other.state_dict(), optimizer.state_dict())
    for each in ((model, optimizer), (live, other)):
        torch.manual_seed(1)
        step(*each)
    assert same(live.state_dict(), model.state_dict())


@pytest.mark.parametrize("order", ["load, then move", "move, then load", "made on the GPU"])
def test_optimizer_state_is_where_its_parameters_are(order, tmp_path) -> None:
    model, optimizer = trained()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    with torch.device("cuda" if order == "made on the GPU" else "cpu"):
        live = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.BatchNorm1d(_WIDTH))
    other = torch.optim.AdamW(live.parameters())
    if order == "move, then load":
        live.cuda()
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    live.cuda()
    step(live, other)
    state = [value for each in other.state.values() for value in each.values() if value.dim()]
    assert all(value.is_cuda for value in state)


def test_a_model_without_memory_gets_it_on_the_gpu(tmp_path) -> None:
    model, _ = trained()
    holdfast.save_state(tmp_path / "a.pt", model=model)
    with torch.device("meta"):
        live = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.BatchNorm1d(_WIDTH))
    holdfast.load_state(tmp_path / "a.pt", map_location="cuda", model=live)
    assert all(tensor.is_cuda for tensor in live.state_dict().values())
    assert same(live.state_dict(), model.state_dict())
