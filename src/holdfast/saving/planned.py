"""A checkpoint's file that is planned: what it will hold, and where each byte goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from holdfast.formats.torch_zip import members, write
from holdfast.io.sink import Sink
from holdfast.tensors import encode


@dataclass(frozen=True, slots=True)
class Planned:
    """An encoded object with the layout of its file; ``keys`` are its storages in file order."""

    encoded: encode.Encoded
    layout: write.Layout
    headers: dict[str, bytes]
    keys: list[int]
    record: bytes | None
    nbytes: int

    @property
    def gpu(self) -> torch.device | None:
        """A GPU that something of it is on; None where nothing is."""
        return next((s.device for s in self.encoded.storages if s.device.type == "cuda"), None)

    def fill(self, sink: Sink) -> None:
        """Write the file front to back, from the live state."""
        write.fill(self.layout, self.payloads(), sink)

    def payloads(self) -> Iterator[write.Payload]:
        """The bytes of each member in the layout's order; storages are referred to, not copied."""
        yield from self.small_before()
        for key in self.keys:
            yield encode.storage_bytes(self.encoded.storages[key])
        yield from self.small_behind()

    def small_before(self) -> Iterator[bytes]:
        """The members before the storages."""
        yield self.encoded.pickle
        yield from self.headers.values()

    def small_behind(self) -> Iterator[write.Payload]:
        """The members behind the storages; the last is made of the CRCs of all others."""
        if self.record is not None:
            yield self.record
        yield members.VERSION
        yield members.serialization_id


def plan(encoded: encode.Encoded, name: str | None, record: bytes | None = None) -> Planned:
    """Lay out the file of an encoded object; ``name`` is its path, None for a file object."""
    alignment = encode.alignment()
    headers = members.headers(alignment=alignment)
    keys = members.storage_order(len(encoded.storages), alignment=alignment)
    nbytes_of = {key: encoded.storages[key].nbytes() for key in keys}
    sizes = members.sizes(encoded.pickle, nbytes_of, headers=headers, record=record)
    root = members.root_name(name)
    layout = write.layout(root, sizes, alignment=alignment or write.ALIGNMENT)
    return Planned(encoded, layout, headers, keys, record, layout.nbytes)
