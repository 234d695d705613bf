"""Metrics are floats: whatever is one number is taken, anything else is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdfast.errors import UsageError


def as_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Names and floats; 0-d tensors, NumPy scalars and ints become floats, NaN stays NaN.

    Raises:
        UsageError: a name that is no text, or a value that is not one real number.
    """
    return {name: float(value) for name, value in check_metrics(metrics).items()}


def check_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same without reading tensors, which would wait for a GPU in steps that save nothing.

    Raises:
        UsageError: a name that is no text, or a value that is not one real number.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        raise UsageError("metrics is a dict of numbers", found=type(metrics).__qualname__)
    return {_name(name): _number(name, value) for name, value in (metrics or {}).items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise UsageError("a metric's name is text", found=repr(name))
    return name


def _number(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return value.detach()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.integer | np.floating):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and _fits(value):
        return value
    raise UsageError(
        f"the metric {name!r} is not one number",
        wanted="an int, a float, a NumPy scalar or a tensor of one element",
        found=type(value).__qualname__
        + (f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""),
        cure="Give its mean, or put it into run.extra.",
    )


def _fits(value: float) -> bool:
    """Whether a float can hold it: some whole numbers are too large."""
    try:
        float(value)
    except OverflowError:
        return False
    return True
