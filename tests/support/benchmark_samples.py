"""A small workload, and results of a benchmark made by hand."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.benchmark import names
from holdfast.benchmark.report import Row, Spread, StepRow, WorkloadResult
from holdfast.benchmark.workloads import Workload

MIB = 1 << 20


def tiny() -> Workload:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return Workload("tiny", {"model": model, "optimizer": optimizer})


def a_row(name: str, seconds: float, cpu: float = 0.5, **more: object) -> Row:
    spread = Spread(seconds, seconds / 2, seconds * 2, 5)
    return Row(name, spread, Spread.of([cpu]), **more)


def a_workload(name: str = names.LARGE) -> WorkloadResult:
    """One GiB that holdfast saves in 0.4 s, of which 0.1 s block, and torch in 1.2 s."""
    return WorkloadResult(
        name,
        1 << 30,
        16,
        limits=(a_row(names.WRITE, 0.36), a_row(names.COPY, 0.08), a_row(names.CRC, 0.03)),
        saves=(
            a_row(names.TORCH_SAVE, 1.2, 2.0, peak_nbytes=8 * MIB),
            a_row(names.DCP_ASYNC, 3.0, 2.5, blocked=Spread(0.3, 0.2, 0.9, 5)),
            a_row(names.SAVE_STATE, 0.4, 0.5, peak_nbytes=32 * MIB),
            a_row(names.RUN_SAVE, 0.5, 0.6, blocked=Spread(0.1, 0.09, 0.2, 5)),
        ),
        steps=(StepRow(names.RUN_SAVE, Spread(0.06, 0.05, 0.08, 9), Spread(0.05, 0.04, 0.06, 9)),),
        warm=(
            a_row(names.READ, 0.1),
            a_row(names.TORCH_INTO, 0.75, into=names.LIVE),
            a_row(names.LOAD_STATE, 0.1, into=names.LIVE, peak_nbytes=80 * MIB),
        ),
        skipped={names.DCP_ASYNC_PINNED: "needs CUDA"},
    )
