"""Undo what made a state plain: NumPy's arrays and scalars come back as they were."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdfast.errors import RefusedError
from holdfast.spec.tree import Path
from holdfast.state.plain import pointer, segment

#: The scalars that are noted, by their notes, and the layouts of arrays. A record may be anybody's:
#: its text is compared with these alone (of some, numpy.dtype dies, and the process with it).
_SCALARS: dict[str, Any] = {
    f"numpy.{name}": np.dtype(name).type
    for name in (
        "bool",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
_LAYOUT = re.compile(r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16) [CF]")

#: A tree of the noted places: segments of pointers, and at _HERE the note of a place itself.
_Notes = dict[str, Any]
_HERE = ""


def from_plain(value: Any, path: Path, notes: Mapping[str, str], *, file: str | None = None) -> Any:
    """Give back what stood at ``path`` before ``to_plain``; ``notes`` are those it made.

    Only containers with something noted below them are built anew. ``file`` is for messages.

    Raises:
        RefusedError: a note is none of those that holdfast writes, or does not fit its value.
    """
    tree: _Notes = {}
    start = pointer(path)
    for place, note in notes.items():
        if place == start or place.startswith(start + "/"):
            _insert(tree, place[len(start) :].split("/")[1:], note)
    return _undo(value, tree, file)


def _insert(tree: _Notes, segments: list[str], note: str) -> None:
    for each in segments:
        # No segment is empty text without a mark: "" as a key is written "~:''".
        tree = tree.setdefault(each, {})
    tree[_HERE] = note


def _undo(value: Any, tree: _Notes, file: str | None) -> Any:
    if not tree:
        return value
    if isinstance(note := tree.get(_HERE), str):
        return _unplain(value, note, file)
    if isinstance(value, Mapping):
        result: Any = type(value)()
        for key, item in value.items():
            result[key] = _undo(item, tree.get(segment(key), {}), file)
        if hasattr(value, "_metadata"):
            result._metadata = value._metadata
        return result
    if type(value) in (list, tuple):
        return type(value)(_undo(v, tree.get(segment(i), {}), file) for i, v in enumerate(value))
    if type(value) is set:
        return {_undo(item, tree.get(segment(item), {}), file) for item in value}
    return value


def _unplain(value: Any, note: str, file: str | None) -> Any:
    kind, _, layout = note.partition(" ")
    if kind == "numpy.ndarray" and isinstance(value, torch.Tensor):
        if not layout or _LAYOUT.fullmatch(layout):
            return _array(value.detach().numpy(), layout)
    elif note == "bytes" and isinstance(value, bytes | bytearray):
        return bytes(value)
    elif note in _SCALARS and type(value) in (bool, int, float, complex):
        try:
            return _SCALARS[note](value)
        except (TypeError, OverflowError) as error:  # a number that this type does not hold
            raise _refused(value, note, file) from error
    raise _refused(value, note, file)


def _refused(value: Any, note: str, file: str | None) -> RefusedError:
    return RefusedError(
        "refused: the record notes which values were NumPy's, and nothing else",
        file=file,
        member="holdfast.json",
        found=f"{note[:100]!r} for {type(value).__qualname__}",
        cure="It was not written by holdfast: load(path) gives what is in the file as it is.",
    )


def _array(array: np.ndarray[Any, Any], layout: str) -> np.ndarray[Any, Any]:
    """An array in the byte order and memory order that ``layout`` (``>f4 F``) notes, if any."""
    if not layout:
        return array
    dtype, _, order = layout.partition(" ")
    return array.astype(np.dtype(dtype), order="F" if order == "F" else "C")
