"""A thread trains as hard as it can while saves run: each checkpoint is the state at its call.

Parameters, momenta and the buffers that the forward pass changes all move in every step. Saves
begin late, take long, or run freely, and another thread looks on.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import holdfast
from holdfast.io.direct import SegmentSink
from holdfast.saving.image import Image

SAVES = 60


@pytest.fixture(autouse=True)
def saving() -> str:
    return "as each test says"


class Training:
    """Goes on in a thread of its own; whoever has the ``lock`` finds it between two steps."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(1000, 1000), nn.BatchNorm1d(1000), nn.Linear(1000, 9))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.lock, self.over = threading.Lock(), threading.Event()
        self.steps = 0
        self._thread = threading.Thread(target=self._train)

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    def _train(self) -> None:
        while not self.over.is_set():
            with self.lock:
                self.optimizer.zero_grad()
                self.model(torch.randn(8, 1000)).square().mean().backward()
                self.optimizer.step()
                self.steps += 1
            time.sleep(0)  # whoever waits for the lock gets it

    def __enter__(self) -> Training:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def go_on(self, steps: int) -> None:
        """Return when so many more steps are done, or when the training seems to wait for us."""
        target, until = self.steps + steps, time.monotonic() + 0.2
        while self.steps < target and time.monotonic() < until:
            time.sleep(0.001)


def digest(parts: Mapping[str, Any]) -> str:
    """Of every tensor of the model and of the optimizer, with its name."""
    found = hashlib.sha256()
    tensors = dict(parts["model"])
    for index, state in parts["optimizer"]["state"].items():
        tensors.update({f"{index}.{name}": value for name, value in state.items()})
    for name, value in tensors.items():
        found.update(name.encode())
        found.update(value.detach().numpy().tobytes())
    return found.hexdigest()


def watch(run: holdfast.Run, over: threading.Event, newest: list[int]) -> None:
    while not over.is_set():
        entry = run.latest() if run.checkpoints() else None
        newest.append(-1 if entry is None else entry.step)
        time.sleep(0.01)


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    """A training, and saves that now begin late, now take long, now are as fast as they are."""
    training, choices = Training(), random.Random(0)
    fill, write_at = Image.fill, SegmentSink._write_at

    def late(self: Image, sink: Any) -> None:
        if choices.random() < 0.4:
            training.go_on(choices.randrange(1, 4))
        fill(self, sink)

    def slow(self: SegmentSink, data: memoryview, at: int) -> None:
        if choices.random() < 0.3:
            training.go_on(1)
        write_at(self, data, at)

    monkeypatch.setattr(Image, "fill", late)
    monkeypatch.setattr(SegmentSink, "_write_at", slow)
    yield training
    training.over.set()


@pytest.mark.parametrize("mode", [True, "overlap", "overlap-checked"])
def test_every_checkpoint_is_the_state_at_its_call(
    mode: bool | str, tmp_path: Path, uneven: Training
) -> None:
    training, wanted, moved, newest = uneven, {}, [], list[int]()
    run = holdfast.Run(tmp_path, keep=None, background=mode, **training.parts)
    with training:
        watching = threading.Thread(target=watch, args=(run, training.over, newest))
        watching.start()
        for step in range(SAVES):
            training.go_on(1)
            if step % 4:
                run.wait()
            with training.lock:
                before = training.steps
                pending = run.save(step)
                state = {name: part.state_dict() for name, part in training.parts.items()}
                wanted[step] = digest(state)
            if step % 3 == 0:
                pending.wait()
                moved.append(training.steps > before)
    watching.join()
    run.close()
    for step, was in wanted.items():
        assert digest(holdfast.load(f"{tmp_path}@{step}")) == was, step
    assert len(set(wanted.values())) == SAVES
    assert any(moved)  # it did train meanwhile
    assert newest == sorted(newest)
    assert holdfast.verify(tmp_path).ok
