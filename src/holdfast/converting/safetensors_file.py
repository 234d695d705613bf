"""safetensors files of weights, one or several, each planned first and then streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.converting.items import Elements, Item
from holdfast.errors import UsageError
from holdfast.formats.safetensors import seal, write
from holdfast.formats.safetensors.read import RECORD
from holdfast.io.sink import Sink

#: Readers of other packages look for this: who laid out the tensors.
_MADE_FOR = {"format": "pt"}

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


@dataclass(slots=True)
class SafeFile:
    """One safetensors file that is planned; its CRCs are known once it is filled."""

    items: Mapping[str, Item]
    metadata: Mapping[str, str]
    crcs: dict[str, int] = field(default_factory=dict)

    @property
    def layout(self) -> write.Layout:
        """The layout, with the CRCs known so far; its size does not depend on them."""
        listed = {name: f"{self.crcs.get(name, 0):08x}" for name in self.items}
        checksums = {seal.CRCS: json.dumps(listed, ensure_ascii=False), seal.SEAL: seal.EMPTY}
        metadata = {**self.metadata, **checksums}
        described = [(item.name, item.dtype, item.shape) for item in self.items.values()]
        return write.layout(described, metadata)

    def fill(self, elements: Elements, sink: Sink) -> None:
        """Write the file front to back; the header holds zeros where the CRCs will be."""
        layout = self.layout
        sink(layout.header)
        for placed in layout.tensors:
            crc = 0
            for piece in elements.of(self.items[placed.name]):
                crc = sink.checked(memoryview(piece).cast("B"), crc)
            self.crcs[placed.name] = crc

    def head(self) -> bytes:
        """The header with the CRCs of what was written, and its own."""
        return seal.sealed(self.layout.header)


#: Keys of the metadata that say other things: a tensor of such a name is stored, tied or not.
RESERVED = frozenset({*_MADE_FOR, RECORD, seal.CRCS, seal.SEAL})


def with_own_names(items: Sequence[Item]) -> list[Item]:
    """The items, those untied whose names mean something else in the metadata.

    Raises:
        UsageError: a tensor bears the one name that safetensors keeps for itself.
    """
    for item in items:
        if item.name == write.METADATA:
            raise UsageError(
                "safetensors keeps this name for the metadata",
                tensor=item.name,
                cure=f"Rename it: --rename '{item.name} -> metadata'.",
            )
    return [replace(item, tied_to=None) if item.name in RESERVED else item for item in items]


def planned(items: Sequence[Item], metadata: Mapping[str, str]) -> SafeFile:
    """One file with all items; what is tied stands once, its other names in the metadata.

    The rule is that of ``safetensors.torch.save_model``: ``{name left out: name kept}``.
    """
    ties = {item.name: item.tied_to for item in items if item.tied_to is not None}
    kept = {item.name: item for item in items if item.tied_to is None}
    return SafeFile(kept, {**_MADE_FOR, **ties, **metadata})


def sharded(
    items: Sequence[Item], metadata: Mapping[str, str], shard_nbytes: int
) -> Iterator[tuple[str, SafeFile]]:
    """Files of at most ``shard_nbytes`` of tensors each, by name, in the items' order.

    A tensor larger than that has a file of its own.
    """
    groups: list[list[Item]] = [[]]
    room = shard_nbytes
    for item in (item for item in items if item.tied_to is None):
        if groups[-1] and item.nbytes > room:
            groups.append([])
            room = shard_nbytes
        groups[-1].append(item)
        room -= item.nbytes
    ties = [item for item in items if item.tied_to is not None]
    for position, group in enumerate(groups, 1):
        names = {item.name for item in group}
        tied = [item for item in ties if item.tied_to in names]
        yield (
            f"model-{position:05d}-of-{len(groups):05d}.safetensors",
            planned([*group, *tied], metadata),
        )


def index_json(files: Sequence[tuple[str, SafeFile]]) -> bytes:
    """The ``model.safetensors.index.json`` that says in which file each tensor is."""
    total = sum(item.nbytes for _, file in files for item in file.items.values())
    weight_map = {name: file_name for file_name, file in files for name in file.items}
    content: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def parse_size(text: str | int) -> int:
    """Bytes of ``5GB``, ``500MB``, ``2GiB`` or a plain number.

    Raises:
        UsageError: it is no size, or nothing.
    """
    match = _SIZE.fullmatch(str(text))
    unit = (match[2] or "").lower() if match else ""
    nbytes = int(float(match[1]) * {**_UNITS, **_BINARY}[unit]) if match else 0
    if nbytes < 1:
        raise UsageError(
            "this is no size of a file", wanted="5GB, 500MB, 2GiB or bytes", found=repr(text)
        )
    return nbytes
