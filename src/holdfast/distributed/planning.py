"""Who writes what of a state that is spread over ranks: from what each has, without the data.

A box that several ranks have, as copies of shards do, is written by one of them: by the one with
least to write. All of it is a function of names, shapes and boxes (``docs/scale.md``).
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.distributed import letters
from holdfast.errors import CaptureError
from holdfast.formats.dcp.layout import MOST_ENTRIES, MOST_SLICES, Box, Key, Place, TensorEntry
from holdfast.formats.dcp.tiling import broken_rule
from holdfast.formats.dcp.write import slice_of
from holdfast.spec.dtypes import BY_NAME


class Piece(NamedTuple):
    """What one rank has of a tensor: the box from ``offsets`` on, of ``sizes``.

    ``is_copy`` says that it is no share: a plain tensor, of which every rank has one of its own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    is_copy: bool

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return BY_NAME[self.dtype].nbytes_of(math.prod(self.sizes))

    @property
    def slice_nbytes(self) -> int:
        """The bytes of the slice that holds it."""
        return slice_of(BY_NAME[self.dtype], self.sizes).whole_nbytes


def digest_of(pieces: Sequence[Piece]) -> bytes:
    """What tells one list of pieces from another."""
    return hashlib.sha256(pickle.dumps([tuple(piece) for piece in pieces], 5)).digest()


@dataclass(frozen=True, slots=True)
class Division:
    """Which of its pieces each rank writes, and what the folder then holds.

    ``writes`` has, by rank, the numbers of its pieces; ``entries`` the tensors by name;
    ``nbytes`` the size of all slices of tensors.
    """

    offers: Sequence[Sequence[Piece]]
    writes: tuple[tuple[int, ...], ...]
    entries: dict[str, TensorEntry]
    nbytes: int

    def written(self, rank: int) -> list[Piece]:
        """The pieces that a rank writes, in the order of its file."""
        return [self.offers[rank][number] for number in self.writes[rank]]


def file_of(rank: int) -> str:
    """The file that a rank writes, named as torch names it."""
    return f"__{rank}_0.distcp"


def divide(offers: Sequence[Sequence[Piece]]) -> Division:
    """Divide the writing among the ranks, each of which has offered its pieces.

    Raises:
        RanksError: a rank has other tensors than rank 0.
        CaptureError: the pieces of a tensor are not all of it.
    """
    _check_same(offers)
    loads = [0] * len(offers)
    writes: list[list[int]] = [[] for _ in offers]
    entries: dict[str, TensorEntry] = {}
    shared: list[tuple[int, int, Sequence[int]]] = []
    for number, piece in enumerate(offers[0]):
        held = _holders([pieces[number] for pieces in offers])
        for ranks in held.values():
            nbytes = offers[ranks[0]][number].nbytes
            if len(ranks) == 1:
                writes[ranks[0]].append(number)
                loads[ranks[0]] += nbytes
            else:
                shared.append((nbytes, number, ranks))
        entries[piece.name] = _entry(piece, list(held))
    for nbytes, number, ranks in sorted(shared, key=lambda each: -each[0]):
        writer = min(ranks, key=loads.__getitem__)
        writes[writer].append(number)
        loads[writer] += nbytes
    nbytes = sum(
        offers[rank][number].slice_nbytes for rank, its in enumerate(writes) for number in its
    )
    return Division(offers, tuple(tuple(sorted(each)) for each in writes), entries, nbytes)


def check_count(division: Division, values: int) -> None:
    """Refuse at the save what no reader of ours would open: too many pieces, or names.

    Raises:
        CaptureError: there are more, with so many values that are no tensors.
    """
    slices, names = sum(map(len, division.writes)) + values, len(division.entries) + values
    if slices > MOST_SLICES or names > MOST_ENTRIES:
        raise CaptureError(
            "this state is in too many pieces for one checkpoint",
            wanted=f"at most {MOST_SLICES:,} pieces of {MOST_ENTRIES:,} tensors and values",
            found=f"{slices:,} of {names:,}",
            cure="Copies of shards (Replicate in the device mesh) are written once; a container in "
            "`extra` that holds no tensors can be kept as text (json.dumps).",
        )


def _holders(pieces: Sequence[Piece]) -> dict[Box, Sequence[int]]:
    """The ranks that may write each box of one tensor; boxes without elements are nobody's."""
    first = pieces[0]
    if first.is_copy:  # its values may be others elsewhere: no two ranks shall write of one model
        return {Box(first.offsets, first.sizes): (0,)}
    held: dict[Box, list[int]] = {}
    for rank, piece in enumerate(pieces):
        if 0 not in piece.sizes:
            held.setdefault(Box(piece.offsets, piece.sizes), []).append(rank)
    return dict(held)


def _entry(piece: Piece, boxes: list[Box]) -> TensorEntry:
    rule = broken_rule(piece.shape, boxes)
    if rule is not None:
        raise CaptureError(
            f"the shares of all ranks are not the whole tensor {piece.name!r}",
            wanted=rule,
            found=f"{len(boxes):,} shares of {piece.shape}: {_shown(boxes)}",
            cure="Are the ranks of its device mesh those of the training?",
        )
    return TensorEntry(BY_NAME[piece.dtype], piece.shape, tuple(boxes))


def _shown(boxes: Sequence[Box]) -> str:
    few = ", ".join(f"{box.sizes} at {box.offsets}" for box in boxes[:3])
    return f"{few}, …" if len(boxes) > 3 else few


def _check_same(offers: Sequence[Sequence[Piece]]) -> None:
    """Find a rank whose tensors are others than those of rank 0."""
    wanted = [(piece.name, piece.dtype, piece.shape, piece.is_copy) for piece in offers[0]]
    for rank, pieces in enumerate(offers):
        found = [(piece.name, piece.dtype, piece.shape, piece.is_copy) for piece in pieces]
        if found != wanted:
            other = [pair for pair in zip(wanted, found, strict=False) if pair[0] != pair[1]]
            here, there = other[0] if other else (f"{len(wanted)} of them", f"{len(found)}")
            raise letters.has_other(rank, here, there)


def places_of(pieces: Iterable[Piece], file: str) -> dict[Key, Place]:
    """Where the slices of a rank's file lie."""
    places: dict[Key, Place] = {}
    at = 0
    for piece in pieces:
        places[piece.name, piece.offsets] = Place(file, at, piece.slice_nbytes)
        at += piece.slice_nbytes
    return places
