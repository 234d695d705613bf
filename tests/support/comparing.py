"""Comparing weights with those that torch has."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Whether two state dicts have the same names in the same order, with the same tensors."""
    return list(ours) == list(theirs) and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in theirs
    )
