"""Undo what made a state plain: NumPy's arrays and scalars come back as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdfast.spec.tree import Path
from holdfast.state.plain import pointer, segment

#: A tree of the noted places: segments of pointers, and at _HERE the note of a place itself.
_Notes = dict[str, Any]
_HERE = ""


def from_plain(value: Any, path: Path, notes: Mapping[str, str]) -> Any:
    """Give back what stood at ``path`` before ``to_plain``; ``notes`` are those it made.

    Only containers with something noted below them are built anew.
    """
    tree: _Notes = {}
    start = pointer(path)
    for place, note in notes.items():
        if place == start or place.startswith(start + "/"):
            _insert(tree, place[len(start) :].split("/")[1:], note)
    return _undo(value, tree)


def _insert(tree: _Notes, segments: list[str], note: str) -> None:
    for each in segments:
        # No segment is empty text without a mark: "" as a key is written "~:''".
        tree = tree.setdefault(each, {})
    tree[_HERE] = note


def _undo(value: Any, tree: _Notes) -> Any:
    if not tree:
        return value
    if isinstance(note := tree.get(_HERE), str):
        return _unplain(value, note)
    if isinstance(value, Mapping):
        result: Any = type(value)()
        for key, item in value.items():
            result[key] = _undo(item, tree.get(segment(key), {}))
        if hasattr(value, "_metadata"):
            result._metadata = value._metadata
        return result
    if type(value) in (list, tuple):
        return type(value)(_undo(v, tree.get(segment(i), {})) for i, v in enumerate(value))
    if type(value) is set:
        return {_undo(item, tree.get(segment(item), {})) for item in value}
    return value


def _unplain(value: Any, note: str) -> Any:
    kind, _, layout = note.partition(" ")
    if kind == "numpy.ndarray" and isinstance(value, torch.Tensor):
        return _array(value.numpy(), layout)
    if kind == "bytes":
        return bytes(value)
    return np.dtype(kind.removeprefix("numpy.")).type(value)


def _array(array: np.ndarray[Any, Any], layout: str) -> np.ndarray[Any, Any]:
    """An array in the byte order and memory order that ``layout`` (``>f4 F``) notes, if any."""
    if not layout:
        return array
    dtype, _, order = layout.partition(" ")
    return array.astype(np.dtype(dtype), order="F" if order == "F" else "C")
