"""How long a training step takes while a save runs behind it, and while none does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from holdfast.benchmark.report import Spread, StepRow
from holdfast.benchmark.savers import Saver
from holdfast.benchmark.workloads import Transformer, Workload


class Training:
    """A small transformer and one batch, the same in every step."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._model: nn.Module = Transformer(vocabulary=1024, context=128, width=128, depth=2)
            self._tokens = torch.randint(1024, (4, 128))
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-3)

    def step(self, before_update: Callable[[], object]) -> float:
        """Forward, backward, update; the seconds it took."""
        started = time.perf_counter()
        logits = self._model(self._tokens)
        loss = functional.cross_entropy(logits.flatten(0, 1), self._tokens.flatten())
        loss.backward()
        before_update()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return time.perf_counter() - started


def step_rows(
    savers: Sequence[Saver],
    workload: Workload,
    folder: Path,
    repeat: int,
    *,
    least: int = 5,
    on_sample: Callable[[str], object] = lambda name: None,
) -> list[StepRow]:
    """For each saver in turn, round after round: steps while it saves, as many while it does not.

    The savers are open. One whose saves are over before a step begins has no row. In each round
    there are at the ``least`` so many steps without a save.
    """
    training = Training()
    during: dict[str, list[float]] = {saver.name: [] for saver in savers}
    without: dict[str, list[float]] = {saver.name: [] for saver in savers}
    for number in range(repeat + 1):
        for saver in savers:
            on_sample(saver.name)
            path = folder / f"steps-{number}-{savers.index(saver)}"
            with_save = _steps_during(saver, workload, path, training)
            no_save = [
                training.step(saver.before_update) for _ in range(max(least, len(with_save)))
            ]
            if number > 0:
                during[saver.name] += with_save
                without[saver.name] += no_save
    return [
        StepRow(name, Spread.of(seconds), Spread.of(without[name]))
        for name, seconds in during.items()
        if seconds
    ]


def _steps_during(saver: Saver, workload: Workload, path: Path, training: Training) -> list[float]:
    """The seconds of each step that began while a save was running."""
    flight = saver.begin(workload, path)
    seconds = []
    try:
        while not flight.is_done():
            seconds.append(training.step(saver.before_update))
    finally:
        flight.wait()
    saver.clean(path)
    return seconds
