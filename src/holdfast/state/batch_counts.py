"""Counts of batches in normalising layers, which files from before torch 1.0 do not have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from holdfast.state import names

#: BatchNorm's own code leaves this count as it is where a file from before torch 1.0 lacks it.
_COUNT = "num_batches_tracked"
_NORMS = nn.modules.batchnorm._NormBase


def that_start(
    module: nn.Module, missing: tuple[str, ...], metadata: Mapping[str, Any]
) -> tuple[str, ...]:
    """Counts of batches that torch's own code leaves as they are, as old files have none."""
    found = []
    plain = names.unwrap(module)
    for name in missing:
        owner, _, last = name.rpartition(".")
        if last != _COUNT or not isinstance(_submodule(plain, owner), _NORMS):
            continue
        about = metadata.get(owner)
        version = about.get("version") if isinstance(about, Mapping) else None
        if not isinstance(version, int) or version < 2:
            found.append(name)
    return tuple(found)


def without_memory(module: nn.Module, started: Iterable[str]) -> dict[str, torch.Tensor]:
    """Of such counts those that have none to leave, on the meta device: they begin at 0."""
    tensors = names.plain_tensors(module)
    return {
        n: torch.zeros((), dtype=torch.long, device="cpu") for n in started if tensors[n].is_meta
    }


def notes(started: Iterable[str]) -> list[str]:
    """What a report says of such counts."""
    return [f"{name} stays as it is: files from before torch 1.0 have none" for name in started]


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
