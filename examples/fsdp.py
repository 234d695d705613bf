"""The same flowers on several processes, which have the model and the optimizer in shards.

torchrun --nproc-per-node 2 examples/fsdp.py; then again with 3, or with the weights in one process.
"""

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import holdfast

torch.set_num_threads(1)
dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)

torch.manual_seed(0)  # the same weights everywhere
model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 3)).to(device)
fully_shard(model[0])
fully_shard(model[3])
fully_shard(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

rank, size = dist.get_rank(), dist.get_world_size()
table = np.loadtxt(Path(__file__).with_name("iris.csv"), delimiter=",", skiprows=1)
share = table[: len(table) // size * size][rank::size]  # as many flowers on each rank
flowers = torch.tensor(share[:, :4], dtype=torch.float32, device=device)
species = torch.tensor(share[:, 4], dtype=torch.int64, device=device)
loader = DataLoader(TensorDataset(flowers, species), batch_size=8, shuffle=True)
torch.manual_seed(rank)  # another order and other dropouts on each


def train_one_epoch():
    total = torch.zeros((), device=device)
    for inputs, labels in loader:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() / len(loader)
    dist.all_reduce(total)
    return total.item() / size


with holdfast.Run("runs/fsdp", model=model, optimizer=optimizer) as run:
    for epoch in run.steps(20):
        loss = train_one_epoch()
        if rank == 0:
            print(f"epoch {epoch}  loss {loss:.6f}", flush=True)
        run.save(metrics={"loss": loss})

dist.destroy_process_group()
