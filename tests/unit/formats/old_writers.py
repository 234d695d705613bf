"""Writers of the formats that torch itself writes no more, or never lets go wrong."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def legacy(
    tree: bytes,
    storages: dict[str, tuple[int, bytes]],
    *,
    keys: Any = None,
    machine: Any = MACHINE,
    magic: Any = MAGIC,
    version: Any = 1001,
) -> bytes:
    """A legacy file: the object's pickle, and each storage's number of elements and bytes."""
    keys = list(storages) if keys is None else keys
    pickles = (pickle.dumps(value, 2) for value in (magic, version, machine))
    raw = (struct.pack("<q", numel) + data for numel, data in storages.values())
    return b"".join((*pickles, tree, pickle.dumps(keys, 2), *raw))


class Tar:
    """A tar of torch before 0.1.10, from parts: pickled bytes and numbers."""

    def __init__(self) -> None:
        self.storages: list[tuple[bytes, int, bytes]] = []
        self.views: Any = []
        self.tensors: list[tuple[bytes, tuple[int, ...], tuple[int, ...], int]] = []
        self.pickle = pickle.dumps(None, 2)

    def members(self) -> dict[str, bytes]:
        storages = pickle.dumps(len(self.storages), 2)
        for said, numel, data in self.storages:
            storages += said + struct.pack("<q", numel) + data
        tensors = pickle.dumps(len(self.tensors), 2)
        for said, sizes, strides, offset in self.tensors:
            numbers = (*sizes, *strides, offset)
            tensors += said + struct.pack(f"<ii{len(numbers)}q", len(sizes), 0, *numbers)
        return {
            "storages": storages + pickle.dumps(self.views, 2),
            "tensors": tensors,
            "pickle": self.pickle,
        }

    def __bytes__(self) -> bytes:
        return archive(self.members())


def archive(members: dict[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as Python writes it; with pax headers, as times are no whole numbers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size, about.mtime = len(data), 1481234567.25
            made.addfile(about, io.BytesIO(data))
    return buffer.getvalue()
