"""Tensors as rows of a table: filtered, sorted, a window of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.errors import UsageError
from holdfast.report.facts import TensorFacts

_KEYS: dict[str, Callable[[TensorFacts], Any]] = {
    "file": lambda _: 0,
    "name": lambda each: each.name,
    "size": lambda each: -each.nbytes,
    "shape": lambda each: (-each.numel, each.shape),
    "dtype": lambda each: each.dtype,
}


def arranged(tensors: Sequence[TensorFacts], filter: str = "", sort: str = "file") -> list[int]:
    """The places of the tensors whose names hold ``filter`` (in any case), in the order asked for.

    Raises:
        UsageError: there is no such order.
    """
    if sort not in _KEYS:
        raise UsageError(
            "rows are not sorted by that", wanted=", ".join(_KEYS), found=repr(sort)[:100]
        )
    wanted, key = filter.casefold(), _KEYS[sort]
    places = [at for at, each in enumerate(tensors) if not wanted or wanted in each.name.casefold()]
    return places if sort == "file" else sorted(places, key=lambda at: key(tensors[at]))


def row(tensor: TensorFacts, total: int) -> dict[str, Any]:
    """One row as JSON values; ``share`` is that of ``total`` bytes."""
    notes = [tensor.kind] if tensor.kind not in ("tensor", "parameter") else []
    if tensor.same_as:
        notes.append(f"same bytes as {tensor.same_as}")
    elif tensor.shares_with:
        notes.append(f"in the storage of {tensor.shares_with}")
    if tensor.is_expanded:
        notes.append("expanded")
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "nbytes": tensor.nbytes,
        "share": tensor.nbytes / total if total else 0.0,
        "note": ", ".join(notes),
    }
