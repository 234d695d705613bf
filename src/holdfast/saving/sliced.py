"""One process's file of a folder that several write: slices of live tensors, in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from holdfast.formats.dcp.write import Slice, slice_of
from holdfast.io.checksum import crc32, crc32_combine
from holdfast.io.sink import Sink
from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.state.sharding import local_of


@dataclass(frozen=True, slots=True)
class Sliced:
    """A file that is planned: a slice of each tensor, and behind them ``values`` as they stand.

    ``crcs`` gains the checksum of each slice as it is written.
    """

    slices: tuple[tuple[Slice, torch.Tensor], ...]
    values: tuple[bytes, ...]
    nbytes: int
    crcs: list[int] = field(default_factory=list)

    @property
    def gpu(self) -> torch.device | None:
        """A GPU that something of it is on; None where nothing is."""
        return next((local.device for _, local in self.slices if local.is_cuda), None)

    def fill(self, sink: Sink) -> None:
        """Write the file front to back, from the live tensors."""
        for each, local in self.slices:
            sink(each.head)
            crc = sink.checked(bytes_of(flat_bytes(local)))
            tail = each.tail(crc)
            sink(tail)
            self.crcs.append(whole_crc(each, crc, tail))
        for value in self.values:
            sink(value)
            self.crcs.append(crc32(value))


def sliced(tensors: Sequence[torch.Tensor], values: Sequence[bytes]) -> Sliced:
    """Plan the file of this process's shares of tensors, and of values."""
    locals_ = [_plain(local_of(tensor)) for tensor in tensors]
    slices = tuple((slice_of(_dtype(local), tuple(local.shape)), local) for local in locals_)
    nbytes = sum(each.whole_nbytes for each, _ in slices) + sum(map(len, values))
    return Sliced(slices, tuple(values), nbytes)


def _dtype(tensor: torch.Tensor) -> DType:
    return BY_NAME[str(tensor.dtype).removeprefix("torch.")]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements where they are, or a copy of those that are not stored as they are."""
    return tensor.detach().resolve_conj().resolve_neg()


def flat_bytes(local: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements in C order: its own memory where they lie so."""
    return local.contiguous().reshape(-1).view(torch.uint8)


def bytes_of(flat: torch.Tensor) -> memoryview:
    """Bytes on any device as memory."""
    return flat.cpu().numpy().data if flat.numel() else memoryview(b"")


def whole_crc(each: Slice, crc: int, tail: bytes) -> int:
    """The CRC-32 of a slice, from that of its elements."""
    found = crc32_combine(crc32(each.head), crc, each.nbytes)
    return crc32_combine(found, crc32(tail), len(tail))
