"""What the oracle and the training with holdfast share; nothing in here knows of holdfast.

The work leans on every kind of state there is: if a single one is lost on the way, losses differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

EPOCHS = 40
STEPS = 64
SAMPLES = 144
BATCH = 16
BATCHES = SAMPLES // BATCH
FEATURES, CLASSES = 32, 4


class Samples(Dataset):
    """Fixed samples; each tells its own number, so that a batch can say what it is made of."""

    def __init__(self) -> None:
        numbers = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(SAMPLES, FEATURES, generator=numbers)
        self.labels = torch.randint(0, CLASSES, (SAMPLES,), generator=numbers)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        return index, self.inputs[index], self.labels[index]


@dataclass
class Work:
    """The live objects of one training: Adam, dropout, batch norm, StepLR, loss scale, average."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    average: torch.optim.swa_utils.AveragedModel
    noise: np.random.Generator
    flips: random.Random
    masks: torch.Generator

    def parts(self) -> dict[str, Any]:
        return dict(vars(self))


def make() -> Work:
    torch.set_num_threads(1)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(FEATURES, 1024),
        nn.BatchNorm1d(1024),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(1024, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Work(
        model=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.7),
        scaler=torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2),
        average=torch.optim.swa_utils.AveragedModel(model),
        noise=np.random.default_rng(4),
        flips=random.Random(5),
        masks=torch.Generator().manual_seed(6),
    )


def train_batch(work: Work, inputs: torch.Tensor, labels: torch.Tensor, number: int) -> float:
    """One step of the optimizer; every random generator has a say, and now and then an inf."""
    scale = 1 + 0.1 * random.random() + 0.1 * np.random.random() + 0.1 * work.flips.random()
    shift = float(work.noise.normal()) * 0.1
    mask = torch.rand(inputs.shape, generator=work.masks) > 0.1
    work.optimizer.zero_grad()
    loss = functional.cross_entropy(work.model(inputs * mask * scale + shift), labels)
    work.scaler.scale(loss).backward()
    if number % 7 in (2, 4):  # the scaler must skip this step and halve its scale
        next(work.model.parameters()).grad[0, 0] = float("inf")
    work.scaler.step(work.optimizer)
    work.scaler.update()
    work.average.update_parameters(work.model)
    return loss.item()


class Log:
    """Lines that outlive a kill: each goes to the system in one append."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def batch(self, step: int, batch: int, ids: torch.Tensor, loss: float) -> None:
        line = [step, batch, ids.tolist(), loss.hex()]
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        os.fsync(self._fd)


def final_state(work: Work) -> dict[str, str]:
    """Every value of every part and global generator by name, bit for bit."""
    parts: dict[str, Any] = {
        name: part.state_dict() for name, part in vars(work).items() if hasattr(part, "state_dict")
    }
    parts |= {
        "noise": work.noise.bit_generator.state,
        "flips": work.flips.getstate(),
        "masks": work.masks.get_state(),
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        },
    }
    return dict(_leaves("", parts))


def _leaves(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list | tuple):
        digits = hashlib.sha256(repr(value).encode()).hexdigest()
        is_long = len(value) > 20 and not any(isinstance(item, torch.Tensor) for item in value)
        if is_long:
            yield path, f"{len(value)} values {digits}"
        else:
            for index, item in enumerate(value):
                yield from _leaves(f"{path}.{index}", item)
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().numpy() if torch.is_tensor(value) else value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        yield path, f"{array.dtype}{list(value.shape)} {digest}"
    elif isinstance(value, float):
        yield path, float(value).hex()
    else:
        yield path, repr(value)


def write_final(work: Work, path: str | Path) -> None:
    Path(path).write_text(json.dumps(final_state(work), indent=1))
