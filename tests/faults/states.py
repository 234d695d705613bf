"""What is saved: tensors that the step and a seed alone determine, and a digest to compare by."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import torch
from torch import nn

#: Elements of the largest tensor, by size: through the page cache, and past it in three segments.
SIZES = {"small": 700, "large": 2_300_000}

#: The step that a training comes to while one before it is saved.
MEANWHILE = 1000


def tensors_of(step: int, size: str) -> dict[str, torch.Tensor]:
    """The tensors of a step: large ones and a few others, of several dtypes; not to be changed."""
    return dict(_made(step, size))


@functools.cache
def _made(step: int, size: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    wide = SIZES[size]
    return {
        "weight": torch.randn(wide, generator=generator),
        "bias": torch.randn(13, generator=generator).to(torch.bfloat16),
        "momentum": torch.randn(wide, generator=generator),
        "count": torch.randint(0, 1000, (5,), generator=generator),
    }


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@functools.cache
def digest_of(step: int, size: str) -> str:
    """The digest of the tensors of a step; processes that are forked later know it, too."""
    return digest(tensors_of(step, size))


class Training:
    """A model and its optimizer that hold the tensors of a step."""

    def __init__(self, size: str) -> None:
        self.model = nn.Module()
        self.model.weight = nn.Parameter(torch.zeros(SIZES[size]))
        self.model.bias = nn.Parameter(torch.zeros(13, dtype=torch.bfloat16))
        self.model.register_buffer("count", torch.zeros(5, dtype=torch.int64))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)
        self.optimizer.state[self.model.weight]["momentum_buffer"] = torch.zeros(SIZES[size])
        self.size = size

    @property
    def parts(self) -> dict[str, object]:
        return {"model": self.model, "optimizer": self.optimizer}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The live tensors, by the names of ``tensors_of``."""
        momentum = self.optimizer.state[self.model.weight]["momentum_buffer"]
        return {**dict(self.model.state_dict()), "momentum": momentum}

    def become(self, step: int) -> None:
        """Train until the step: in place, after the optimizer's hooks, as a real one does."""
        self.optimizer.step()
        with torch.no_grad():
            for name, value in tensors_of(step, self.size).items():
                self.tensors()[name].copy_(value)
