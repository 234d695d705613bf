"""Whether two states are the same, bit for bit; NaN equals NaN."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import torch

#: What the parts of a checkpoint that no name of the user's stands for are called in messages.
_WORDS = {"rng": "the random generators (rng)", "extra": "run.extra"}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The top-level names whose values differ, in words fit for a message."""
    gone = object()
    names = dict.fromkeys([*before, *after])
    changed = [n for n in names if not same(before.get(n, gone), after.get(n, gone))]
    return [_WORDS.get(name, repr(name)) for name in changed]


def same(a: Any, b: Any) -> bool:
    """Whether two trees of plain values and tensors are equal in every type and bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return _same_tensor(a, b)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


def _same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        return all(map(_same_tensor, _components(a), _components(b)))
    if a.is_quantized or a.device.type == "meta" or not a.numel():
        return torch.equal(a, b)
    return torch.equal(_bits(a), _bits(b))


def _components(sparse: torch.Tensor) -> list[torch.Tensor]:
    """The dense tensors that a sparse one is made of."""
    if sparse.layout == torch.sparse_coo:
        return [sparse._indices(), sparse._values()]
    is_by_row = sparse.layout in (torch.sparse_csr, torch.sparse_bsr)
    if is_by_row:
        return [sparse.crow_indices(), sparse.col_indices(), sparse.values()]
    return [sparse.ccol_indices(), sparse.row_indices(), sparse.values()]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    # One element may have any stride and still counts as contiguous; its bytes need stride 1.
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)
