"""One tensor of an open checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.io.source import Source
from holdfast.spec.index import Index
from holdfast.tensors.materialise import Materialiser
from holdfast.tensors.storages import Storages
from holdfast.tensors.trust import Trust


def tensor(index: Index, source: Source, node: Any) -> torch.Tensor:
    """The tensor of a reference, on the CPU; a NumPy array or scalar becomes one.

    Raises:
        DamagedError: its bytes are not those that were saved.
    """
    storages = Storages(index, source)
    made = Materialiser(index.file, storages, Trust(), "cpu").build(node)
    return made if isinstance(made, torch.Tensor) else torch.as_tensor(made, device="cpu")
