"""What the ranks of a test do with models whose parameters are sharded."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import holdfast
from holdfast.state.sharding import share_like


class Net(nn.Module):
    """Layers of odd sizes, a buffer, and a parameter that is nobody's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 14)
        self.norm = nn.BatchNorm1d(14)
        self.down = nn.Linear(14, 5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Any) -> Any:
        """A number for each of five outputs."""
        return self.down(torch.relu(self.norm(self.up(x)))) * self.scale


def make(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and an optimizer, both spread over the ranks as ``kind`` says."""
    torch.manual_seed(11)
    model: nn.Module = Net()
    size = dist.get_world_size() if dist.is_initialized() else 1
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (size,))
        fully_shard(model.up, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "tp":
        mesh = init_device_mesh("cpu", (size,))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
    elif kind == "2d":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("data", "tensors"))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh["tensors"], plan)
        fully_shard(model, mesh=mesh["data"])
    elif kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("copies", "shards"))
        fully_shard(model, mesh=mesh)
    else:
        assert kind == "plain"
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def one_step(kind: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step whose gradients are the same numbers on any number of ranks."""
    for number, parameter in enumerate(model.parameters()):
        whole = torch.arange(float(parameter.numel())).reshape(parameter.shape) + number
        parameter.grad = _like(whole, parameter)
    optimizer.step()
    optimizer.zero_grad()


def _like(whole: torch.Tensor, parameter: Any) -> Any:
    if not isinstance(parameter, DTensor):
        return whole
    if len(parameter.placements) > 1:  # distribute_tensor does not know uneven strided shards
        return share_like(whole, parameter)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


def whole(value: Any) -> Any:
    """All elements of what may be spread."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All values, whole, by plain names; the optimizer's by position."""
    found = {name: whole(value).clone() for name, value in model.state_dict().items()}
    for at, kept in optimizer.state_dict()["state"].items():
        found |= {f"{at}.{name}": whole(value).clone() for name, value in kept.items()}
    return found


def save_with_dcp(rank: int, folder: str, kind: str) -> dict[str, torch.Tensor]:
    """What torch.distributed.checkpoint writes of a trained model; the values."""
    model, optimizer = make(kind)
    one_step(kind, model, optimizer)
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(tree, checkpoint_id=folder)
    return state(model, optimizer)


def load(rank: int, paths: list[str], kind: str) -> list[dict[str, Any]]:
    """Of each path the values after loading it into an arrangement, and after one more step."""
    return [_loaded(path, kind) for path in paths]


def _loaded(path: str, kind: str) -> dict[str, Any]:
    model, optimizer = make(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    report = holdfast.load_state(path, model=model, optimizer=optimizer)
    loaded, first = state(model, optimizer), optimizer.state_dict()["state"][1]
    one_step(kind, model, optimizer)
    return {
        "loaded": loaded,
        "stepped": state(model, optimizer),
        "kinds": {name: type(value).__name__ for name, value in first.items()},
        "left": report.not_restored,
    }


def bytes_read(rank: int, path: str, way: str, dtype: torch.dtype) -> tuple[int, int, bool]:
    """Bytes that are read into a share of a large tensor, those it has, and whether it is right."""
    import os

    from holdfast import restoring

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    placement = {"rows": Shard(0), "columns": Shard(1), "copies": Replicate()}[way]
    model = nn.Module()
    empty = distribute_tensor(torch.zeros(1031, 6144, dtype=dtype), mesh, [placement])
    model.register_parameter("weight", nn.Parameter(empty))
    read, preadv, read_into = 0, os.preadv, restoring.read_into

    def counted(fd: int, buffers: Any, offset: int) -> int:
        nonlocal read
        count = preadv(fd, buffers, offset)
        read += count
        return count

    def reading(*args: Any) -> None:
        os.preadv = counted
        try:
            read_into(*args)
        finally:
            os.preadv = preadv

    restoring.read_into = reading
    holdfast.load_state(path, model=model)
    weight: Any = model.weight
    local = weight.to_local()
    wanted = torch.arange(1031.0 * 6144).reshape(1031, 6144).to(dtype)
    is_right = torch.equal(weight.full_tensor(), wanted)
    return read, local.nbytes, is_right


def refused(rank: int, path: str) -> str:
    """A checkpoint whose tensor has another shape: what is said."""
    model, _ = make("fsdp")
    before = model.state_dict()["up.weight"].to_local().clone()
    try:
        holdfast.load_state(path, model=model)
    except holdfast.errors.MismatchError as error:
        assert torch.equal(model.state_dict()["up.weight"].to_local(), before)
        return str(error)
    return ""


def saved_by_a_run(rank: int, folder: str, kind: str) -> Any:
    """What a run says to a model, or the state before and after it was saved and resumed."""
    model, optimizer = make(kind)
    one_step(kind, model, optimizer)
    try:
        with holdfast.Run(folder, background=False, model=model, optimizer=optimizer) as run:
            run.save(0)
            before = state(model, optimizer)
            one_step(kind, model, optimizer)
            run.resume()
        return before, state(model, optimizer)
    except holdfast.errors.CaptureError as error:
        return str(error)


def without_memory(rank: int, path: str) -> str:
    """A sharded model on the meta device: what is said."""
    with torch.device("meta"):
        model = Net()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    try:
        holdfast.load_state(path, model=model)
    except holdfast.errors.MismatchError as error:
        return str(error)
    return ""
