"""``kept.py`` with workers that says where it is, and in each step waits for a line: ``OUT``."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from pathlib import Path

import kept


class Talk(kept.Marks):
    """Marks that are printed, with the processes of the loader's workers."""

    def enter(self, phase: str, step: int, batch: int = 0) -> None:
        workers = [worker.pid for worker in multiprocessing.active_children()]
        print(phase, step, *workers, flush=True)
        if phase == "step":
            sys.stdin.readline()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    kept.batches(2, Path(sys.argv[1]), Talk())
