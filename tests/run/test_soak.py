"""Thousands of saves behind the training: memory, files and threads stay as many as they were."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast

#: ``make soak`` makes it 2,000.
SAVES = int(os.environ.get("SOAK_SAVES", "200"))
#: What Python's own free lists and the allocator may add; 200 files would be six times as much.
SPARE_NBYTES = 32 << 20


@pytest.fixture(params=[True, "overlap"])
def saving(request):
    return request.param


def counts() -> tuple[int, int]:
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_many_saves_leave_no_trace(tmp_path, saving):
    model = nn.Sequential(nn.Linear(200, 400), nn.BatchNorm1d(400), nn.Linear(400, 3))
    optimizer = torch.optim.Adam(model.parameters())
    run = holdfast.Run(
        tmp_path, keep=holdfast.keep.latest(2), background=saving, model=model, optimizer=optimizer
    )
    for step in run.steps(SAVES):
        optimizer.zero_grad()
        model(torch.randn(4, 200)).square().mean().backward()
        optimizer.step()
        run.save(metrics={"loss": step})
        if step == SAVES // 10:
            run.wait()
            before, memory = counts(), resident()
    # Threads and files of other tests of this process may end meanwhile.
    assert all(now <= then for now, then in zip(counts(), before, strict=True))
    assert resident() - memory < SPARE_NBYTES
    run.close()
    assert [entry.step for entry in run.checkpoints()] == [SAVES - 2, SAVES - 1]
    assert len(list(tmp_path.iterdir())) == 3
    assert holdfast.verify(tmp_path).ok
    assert torch.equal(holdfast.load(tmp_path)["model"]["0.weight"], model[0].weight)
