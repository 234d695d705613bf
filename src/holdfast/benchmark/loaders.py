"""Ways of loading: into live parts, and into fresh memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from holdfast.benchmark import names
from holdfast.benchmark.workloads import Workload
from holdfast.training import load, load_state


@dataclass(frozen=True, slots=True)
class Loader:
    """One way of loading a file of torch's format, and what it fills."""

    name: str
    into: str
    load: Callable[[Workload, Path], object]


def _into_with_torch(workload: Workload, path: Path) -> None:
    state = torch.load(path, weights_only=True)
    for name, part in workload.parts.items():
        part.load_state_dict(state[name])


def _into_mapped(workload: Workload, path: Path) -> None:
    """Copy from the mapped file; an optimizer would else go on with tensors that lie in it."""
    state = torch.load(path, weights_only=True, mmap=True)
    for name, part in workload.parts.items():
        is_copied = isinstance(part, nn.Module)
        part.load_state_dict(state[name] if is_copied else copy.deepcopy(state[name]))


def _into_with_holdfast(workload: Workload, path: Path) -> None:
    load_state(path, **workload.parts)


def _with_torch(workload: Workload, path: Path) -> object:
    return torch.load(path, weights_only=True)


def _with_holdfast(workload: Workload, path: Path) -> object:
    return load(path)


#: Mapped files are copied into live parts, too: ``assign=True`` would read nothing, only later, and
#: would leave the optimizer with parameters that the model no longer has.
LOADERS = (
    Loader(names.TORCH_INTO, names.LIVE, _into_with_torch),
    Loader(names.TORCH_MMAP_INTO, names.LIVE, _into_mapped),
    Loader(names.LOAD_STATE, names.LIVE, _into_with_holdfast),
    Loader(names.TORCH_LOAD, names.FRESH, _with_torch),
    Loader(names.LOAD, names.FRESH, _with_holdfast),
)
