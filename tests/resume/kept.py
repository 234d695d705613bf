"""The trainings of ``oracle.py`` kept by holdfast, with marks that say where they are.

``kept.py epochs|batches WORKERS OUT`` runs one by itself; ``killing.py`` runs them to kill them.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import workload
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast

KEEP = holdfast.keep.latest(3) | holdfast.keep.best("loss")


class Marks:
    """Where a training is, in memory that its killer shares: phase, step, batch."""

    _FORMAT = struct.Struct("=B3xii")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.enter("start", -1)

    PHASES = ("start", "resume", "step", "save", "between", "end")

    def enter(self, phase: str, step: int, batch: int = 0) -> None:
        self._FORMAT.pack_into(self._memory, 0, self.PHASES.index(phase), step, batch)

    def read(self) -> tuple[str, int, int]:
        phase, step, batch = self._FORMAT.unpack_from(self._memory, 0)
        return self.PHASES[phase], step, batch


def speak_apart(out: Path, worker: int) -> None:
    """Let what a loader's worker prints go to a file of its own.

    A worker whose training was killed while it handed over a batch prints a traceback of
    PyTorch's and multiprocessing's: the debris of the kill, and no word of the training.
    """
    apart = os.open(out / "workers", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(apart, 1)
    os.dup2(apart, 2)
    os.close(apart)


def epochs(workers: int, out: Path, marks: Marks) -> None:
    work = workload.make()
    loader = DataLoader(
        workload.Samples(),
        batch_size=workload.BATCH,
        shuffle=True,
        num_workers=workers,
        worker_init_fn=partial(speak_apart, out),
    )
    log = workload.Log(out / "log")
    run = holdfast.Run(out / "run", keep=KEEP, background=False, **work.parts())
    marks.enter("resume", -1)
    for epoch in run.steps(workload.EPOCHS):
        for batch, (ids, inputs, labels) in enumerate(loader):
            marks.enter("step", epoch, batch)
            number = epoch * workload.BATCHES + batch
            loss = workload.train_batch(work, inputs, labels, number)
            log.batch(epoch, batch, ids, loss)
        work.scheduler.step()
        marks.enter("save", epoch)
        run.save(metrics={"loss": loss})
        marks.enter("between", epoch)
    marks.enter("end", workload.EPOCHS)
    workload.write_final(work, out / "final.json")


def endless(loader: StatefulDataLoader) -> Iterator:
    while True:
        yield from loader


def batches(workers: int, out: Path, marks: Marks) -> None:
    work = workload.make()
    loader = StatefulDataLoader(
        workload.Samples(),
        batch_size=workload.BATCH,
        shuffle=True,
        num_workers=workers,
        worker_init_fn=partial(speak_apart, out),
    )
    log = workload.Log(out / "log")
    with holdfast.Run(out / "run", keep=KEEP, loader=loader, **work.parts()) as run:
        marks.enter("resume", -1)
        stream = endless(loader)
        for step in run.steps(workload.STEPS):
            ids, inputs, labels = next(stream)
            marks.enter("step", step)
            loss = workload.train_batch(work, inputs, labels, step)
            log.batch(step, 0, ids, loss)
            work.scheduler.step()
            marks.enter("save", step)
            run.save(metrics={"loss": loss})
            marks.enter("between", step)
    marks.enter("end", workload.STEPS)
    workload.write_final(work, out / "final.json")


TRAININGS = {"epochs": epochs, "batches": batches}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    TRAININGS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]), Marks())
