"""One process of several that save a state with torch.distributed.checkpoint together.

``python ranks.py RANK WORLD FOLDER``: uneven shards, replicas, a mesh of two axes, plain values.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def main(rank: int, world: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}.meeting", rank=rank, world_size=world
    )
    mesh = init_device_mesh("cpu", (world,))
    whole = torch.arange(35.0).reshape(7, 5)
    state = {
        "model": {
            "rows": distribute_tensor(whole, mesh, [Shard(0)]),
            "columns": distribute_tensor(whole.to(torch.bfloat16), mesh, [Shard(1)]),
            "few": distribute_tensor(torch.arange(4).reshape(2, 2), mesh, [Shard(0)]),
            "everywhere": distribute_tensor(whole * 2, mesh, [Replicate()]),
            "plain": torch.ones(3) * 5,
        },
        "step": 12,
        "groups": [{"lr": 0.5, "params": [0, 1]}],
    }
    if world == 4:
        square = init_device_mesh("cpu", (2, 2))
        state["model"]["blocks"] = distribute_tensor(whole, square, [Shard(0), Shard(1)])
    dcp.save(state, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
