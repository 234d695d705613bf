"""What the description of a folder says, as ours: tensors, their pieces, and where those lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.spec.dtypes import DType

#: The file that says it.
NAME = ".metadata"
#: Tensors and values; and the slices of all of them, of which each process of a job has some.
MOST_ENTRIES, MOST_SLICES = 1_000_000, 10_000_000
MOST_AXES = 64

#: What finds a slice: the name of a tensor or value, and where the piece begins (None: a value).
Key = tuple[str, tuple[int, ...] | None]


class Box(NamedTuple):
    """A piece of a tensor: where it begins, and how large it is, by axis."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of the checkpoint and the pieces it was saved in."""

    dtype: DType
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]


class Place(NamedTuple):
    """Where a slice lies: a file of the folder, and the bytes in it."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a folder holds, in order; None stands for a value that is no tensor.

    ``paths`` are the keys and positions at which the saved state had what bears a name; the names
    it lacks stand at the top. ``symbols`` are all globals that are neither records nor known.
    """

    entries: Mapping[str, TensorEntry | None]
    places: Mapping[Key, Place]
    paths: Mapping[str, tuple[str | int, ...]]
    symbols: tuple[str, ...]
