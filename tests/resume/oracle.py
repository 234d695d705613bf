"""The same trainings without holdfast, never interrupted: ``oracle.py epochs|batches WORKERS OUT``.

Written out plainly once more, so that nothing that is tested decides what is right.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import workload
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader


def epochs(workers: int, out: Path) -> None:
    work = workload.make()
    loader = DataLoader(
        workload.Samples(), batch_size=workload.BATCH, shuffle=True, num_workers=workers
    )
    log = workload.Log(out / "log")
    for epoch in range(workload.EPOCHS):
        for batch, (ids, inputs, labels) in enumerate(loader):
            number = epoch * workload.BATCHES + batch
            loss = workload.train_batch(work, inputs, labels, number)
            log.batch(epoch, batch, ids, loss)
        work.scheduler.step()
    workload.write_final(work, out / "final.json")


def endless(loader: StatefulDataLoader) -> Iterator:
    while True:
        yield from loader


def batches(workers: int, out: Path) -> None:
    work = workload.make()
    loader = StatefulDataLoader(
        workload.Samples(), batch_size=workload.BATCH, shuffle=True, num_workers=workers
    )
    log = workload.Log(out / "log")
    for step, (ids, inputs, labels) in zip(range(workload.STEPS), endless(loader), strict=False):
        loss = workload.train_batch(work, inputs, labels, step)
        log.batch(step, 0, ids, loss)
        work.scheduler.step()
    workload.write_final(work, out / "final.json")


if __name__ == "__main__":
    {"epochs": epochs, "batches": batches}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
    if any(name.partition(".")[0] == "holdfast" for name in sys.modules):
        sys.exit("the oracle must know nothing of holdfast")
