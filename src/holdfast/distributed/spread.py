"""A state that is spread over the ranks, as one rank has it: what it offers, and what it writes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from holdfast.distributed.planning import Division, Piece, digest_of, divide, places_of
from holdfast.formats.dcp.metadata import Metadata, Place
from holdfast.saving.foreground import save_encoded
from holdfast.saving.sliced import Sliced, sliced
from holdfast.state.capture import capture, flat_of
from holdfast.state.compact import compact
from holdfast.state.flat import Flat
from holdfast.state.parts import Part, modules_of
from holdfast.state.sharding import box_of, can_be_spread, is_spread
from holdfast.tensors.encode import encode


class Offer(NamedTuple):
    """The pieces that a rank has, and their digest; without the pieces where they are known."""

    digest: bytes
    pieces: tuple[Piece, ...] | None


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


def pieces_of(flat: Flat) -> tuple[Piece, ...]:
    """What this rank has of each tensor."""
    return tuple(_piece(name, tensor) for name, tensor in flat.tensors.items())


def _piece(name: str, tensor: torch.Tensor) -> Piece:
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if not is_spread(tensor):
        return Piece(name, dtype, shape, (0,) * len(shape), shape, True)
    box = box_of(tensor)
    return Piece(name, dtype, shape, tuple(box.offsets), tuple(box.sizes), False)


class Spread:
    """What one rank remembers of its saves: lists of pieces are told and divided once."""

    def __init__(self) -> None:
        self._told: bytes | None = None
        self._writes: Sequence[int] = ()
        self._known: dict[int, Offer] = {}
        self._division: tuple[list[bytes], Division] | None = None

    def offer(self, flat: Flat) -> Offer:
        """What this rank says of its pieces; they themselves only where they are others now."""
        pieces = pieces_of(flat)
        digest = digest_of(pieces)
        is_known, self._told = digest == self._told, digest
        return Offer(digest, None if is_known else pieces)

    def forget(self) -> None:
        """Whatever was told may not have arrived: it is told again."""
        self._told = self._division = None

    def divided(self, offers: Sequence[Offer]) -> tuple[Division, bool]:
        """On rank 0: who writes what, and whether it is another division than before.

        Raises:
            RanksError: a rank has other tensors than rank 0.
            CaptureError: the pieces of a tensor are not all of it.
        """
        for rank, offer in enumerate(offers):
            if offer.pieces is not None:
                self._known[rank] = offer
        digests = [offer.digest for offer in offers]
        if self._division is not None and self._division[0] == digests:
            return self._division[1], False
        pieces = [self._known[rank].pieces or () for rank in range(len(offers))]
        self._division = (digests, divide(pieces))
        return self._division[1], True

    def file(self, flat: Flat, values: Mapping[str, bytes], writes: Sequence[int] | None) -> Sliced:
        """This rank's file: the tensors of these numbers, and values; None: as the last time."""
        if writes is not None:
            self._writes = writes
        tensors = list(flat.tensors.values())
        return sliced([tensors[number] for number in self._writes], list(values.values()))


def encoded_values(flat: Flat) -> dict[str, bytes]:
    """Every value that is no tensor of its own, as the bytes of a torch file."""
    made: dict[str, bytes] = {}
    for name, value in flat.values.items():
        file = io.BytesIO()
        save_encoded(encode(compact(value)), file)
        made[name] = file.getvalue()
    return made


def described(
    flat: Flat, division: Division, values: Mapping[str, bytes], files: Sequence[str]
) -> Metadata:
    """What ``.metadata`` says: the tensors of all ranks, and the values of rank 0."""
    entries: dict[str, Any] = {
        name: None if name in values else division.entries[name] for name in flat.paths
    }
    nbytes = [(name, len(data)) for name, data in values.items()]
    places: dict[Any, Place] = {}
    for rank, file in enumerate(files):
        places |= places_of(division.written(rank), nbytes if rank == 0 else (), file)
    paths = {name: tuple(path) for name, path in flat.paths.items()}
    return Metadata(entries, places, paths, ())
