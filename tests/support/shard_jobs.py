"""What the ranks of a test do with a model whose parameters are sharded."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import holdfast


def plain_model() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def look(rank: int, folder: str) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = plain_model()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.randn(4, 5)).square().mean().backward()
    optimizer.step()
    out = {
        k: (type(v).__name__, tuple(v.shape), tuple(v.to_local().shape), v.placements)
        for k, v in model.state_dict().items()
    }
    st = {k: type(v).__name__ for k, v in optimizer.state_dict()["state"][0].items()}
    try:
        run = holdfast.Run(folder, model=model, optimizer=optimizer)
        run.save(1, wait=True)
    except Exception as e:
        return out, st, repr(e), str(e)
    return out, st
