"""A state that is spread over the ranks, as one rank has it: what it offers, and what it writes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from holdfast.distributed.planning import Division, Piece, digest_of, divide, file_of, places_of
from holdfast.formats.dcp.description import Description, Value
from holdfast.formats.dcp.layout import Place
from holdfast.saving.foreground import save_encoded
from holdfast.saving.sliced import Sliced, sliced
from holdfast.spec.tree import Path
from holdfast.state.capture import capture, flat_of
from holdfast.state.compact import compact
from holdfast.state.flat import Flat
from holdfast.state.parts import Part, modules_of
from holdfast.state.sharding import Box, box_of, can_be_spread, is_spread
from holdfast.tensors.encode import encode


class Offer(NamedTuple):
    """The pieces that a rank has, and their digest; without the pieces where they are known.

    ``division`` is the number of the division of which it knows what it writes.
    """

    digest: bytes
    pieces: tuple[Piece, ...] | None
    division: int


def has_spread(parts: Mapping[str, Part]) -> bool:
    """Whether a model among the parts is spread over processes; the same on all of them."""
    return can_be_spread() and any(
        is_spread(tensor) for module in modules_of(parts).values() for tensor in _tensors(module)
    )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def captured_flat(parts: Mapping[str, Part], extra: Mapping[str, Any]) -> Flat:
    """The state of parts, of which other ranks have their shares, by names."""
    captured = capture(parts, extra, rng=False, spread=True)
    return flat_of(captured.tree, captured.parameters, parts)


class _Boxes:
    """What this rank has of tensors; torch works it out anew for each, and many are alike."""

    def __init__(self) -> None:
        self._known: dict[Any, Box] = {}

    def pieces(self, flat: Flat) -> tuple[Piece, ...]:
        """What this rank has of each tensor."""
        return tuple(self._piece(name, tensor) for name, tensor in flat.tensors.items())

    def _piece(self, name: str, tensor: torch.Tensor) -> Piece:
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        if not is_spread(tensor) or 0 in shape:
            return Piece(name, dtype, shape, (0,) * len(shape), shape, True)
        box = self._box(tensor, shape)
        return Piece(name, dtype, shape, box.offsets, box.sizes, False)

    def _box(self, tensor: Any, shape: tuple[int, ...]) -> Box:
        like = (tensor.device_mesh, tensor.placements, shape)
        found = self._known.get(like)
        if found is None:
            found = self._known[like] = box_of(tensor)
        return found


def _whole_if_empty(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without elements as rank 0 writes it: shares of it have another shape."""
    return torch.empty(tensor.shape, dtype=tensor.dtype) if 0 in tensor.shape else tensor


class Spread:
    """What one rank remembers of its saves: lists of pieces are told and divided once."""

    def __init__(self) -> None:
        self._boxes = _Boxes()
        self._told: bytes | None = None
        self._writes: Sequence[int] = ()
        self._known: dict[int, Offer] = {}
        self._division: tuple[list[bytes], Division] | None = None
        #: Of the division that is known here; 0 of none.
        self.number = 0
        self._description: tuple[Division, Description] | None = None

    def offer(self, flat: Flat) -> Offer:
        """What this rank says of its pieces; they themselves only where they are others now."""
        pieces = self._boxes.pieces(flat)
        digest = digest_of(pieces)
        is_known, self._told = digest == self._told, digest
        return Offer(digest, None if is_known else pieces, self.number)

    def forget(self) -> None:
        """Whatever was told may not have arrived: it is told again."""
        self._told = None

    def learn(self, rank: int, offer: Offer) -> None:
        """On rank 0: keep the pieces of a rank, which tells them once."""
        if offer.pieces is not None:
            self._known[rank] = offer

    def divided(self, offers: Sequence[Offer]) -> Division:
        """On rank 0: who writes what; ``number`` tells one division from another.

        Raises:
            RanksError: a rank has other tensors than rank 0.
            CaptureError: the pieces of a tensor are not all of it.
        """
        for rank, offer in enumerate(offers):
            self.learn(rank, offer)
        digests = [offer.digest for offer in offers]
        if self._division is None or self._division[0] != digests:
            pieces = [self._known[rank].pieces or () for rank in range(len(offers))]
            self._division = (digests, divide(pieces))
            self.number += 1
        return self._division[1]

    def description(self, paths: Mapping[str, Path], division: Division) -> Description:
        """On rank 0: what is said of the tensors, made once for each division."""
        known = self._description
        if known is None or known[0] is not division:
            known = self._description = (division, described(paths, division))
        return known[1]

    def know(self, writes: Sequence[int], number: int) -> None:
        """On another rank: which of its tensors it writes, in the division of that number."""
        self._writes, self.number = writes, number

    def file(self, flat: Flat, values: Mapping[str, bytes]) -> Sliced:
        """This rank's file: the tensors that it writes, and values."""
        tensors = [_whole_if_empty(each) for each in flat.tensors.values()]
        return sliced([tensors[number] for number in self._writes], list(values.values()))


def encoded_values(flat: Flat) -> dict[str, bytes]:
    """Every value that is no tensor of its own, as the bytes of a torch file."""
    made: dict[str, bytes] = {}
    for name, value in flat.values.items():
        file = io.BytesIO()
        save_encoded(encode(compact(value)), file)
        made[name] = file.getvalue()
    return made


def described(paths: Mapping[str, Path], division: Division) -> Description:
    """What ``.metadata`` says of the tensors of all ranks, each at its path."""
    places: dict[Any, Place] = {}
    for rank in range(len(division.offers)):
        places |= places_of(division.written(rank), file_of(rank))
    return Description(division.entries, places, paths)


def described_values(
    paths: Mapping[str, Path], division: Division, values: Mapping[str, bytes]
) -> dict[str, Value]:
    """What it says of values, which lie behind the tensors of rank 0."""
    at = sum(piece.slice_nbytes for piece in division.written(0))
    found = {}
    for name, data in values.items():
        found[name] = Value(Place(file_of(0), at, len(data)), paths[name])
        at += len(data)
    return found
