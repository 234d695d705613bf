"""A training of which a rank kills itself twice; torchrun starts all of them again."""

import os
import signal
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import holdfast

torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
rank, starts = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
print("start", starts, flush=True)
model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())
with holdfast.Run(sys.argv[1], model=model, optimizer=optimizer) as run:
    for step in run.steps(12):
        optimizer.zero_grad()
        model(torch.ones(4, 300)).sum().backward()
        optimizer.step()
        run.save()
        if step % 5 == 3 and rank == starts == step // 5:
            os.kill(os.getpid(), signal.SIGKILL)
dist.destroy_process_group()
