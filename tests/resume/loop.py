"""A training that does in each step what it is told on its input: ``loop.py FOLDER STEPS [GRACE]``.

It says ``step N`` and then takes commands, one a line: ``end`` ends the step, ``stop?`` says
whether a signal to stop was seen, ``child`` starts a process and terminates it.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys

import torch

import holdfast

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")


def say(*words: object) -> None:
    print(*words, flush=True)


def end_child() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join(10)
    child.kill()
    child.join()
    return child.exitcode


def obey(run: holdfast.Run) -> None:
    for line in sys.stdin:
        command = line.strip()
        if command == "end":
            return
        say(run.should_stop if command == "stop?" else end_child())


def main(folder: str, steps: int, grace: float = 30) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    # Only the last step and one that is stopped at are saved.
    often = holdfast.every(steps=1000)
    run = holdfast.Run(folder, model=model, every=often, keep=None, grace=grace)
    with run:
        for step in run.steps(steps):
            say("step", step)
            obey(run)
            with torch.no_grad():
                model.weight += torch.rand(3, 3)
            run.save(metrics={"loss": float(step)})
    say("all done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:]))
