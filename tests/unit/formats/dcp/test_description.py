"""``.metadata`` as it is written, read by torch and by our own reader."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from described import metadatas
from hypothesis import given
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import Metadata as TorchMetadata

from holdfast.formats.dcp.description import Description, Value, write_metadata
from holdfast.formats.dcp.layout import Box, Metadata, Place, TensorEntry
from holdfast.formats.dcp.metadata import read_metadata
from holdfast.io.folder import Folder
from holdfast.spec.dtypes import BY_NAME


def as_torch_has_it(found: Metadata) -> TorchMetadata:
    """The same as torch's own records."""
    entries = {}
    for name, each in found.entries.items():
        if each is None:
            entries[name] = BytesStorageMetadata()
            continue
        chunks = [
            ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))
            for box in each.boxes
        ]
        properties = TensorProperties(getattr(torch, each.dtype.name))
        entries[name] = TensorStorageMetadata(properties, torch.Size(each.shape), chunks)
    storage = {
        MetadataIndex(name, offsets): _StorageInfo(place.file, place.offset, place.nbytes)
        for (name, offsets), place in found.places.items()
    }
    return TorchMetadata(entries, found.paths, storage, None, "1.0.0")


@given(metadatas())
def test_torch_and_we_read_what_was_meant(metadata: Metadata) -> None:
    data = write_metadata(metadata)
    assert pickle.loads(data) == as_torch_has_it(metadata)


def test_torch_finds_pieces_by_their_numbers() -> None:
    boxes = (Box((0, 0), (2, 3)), Box((2, 0), (1, 3)))
    places = {("w", box.offsets): Place("a", n, 10) for n, box in enumerate(boxes)}
    entry = TensorEntry(BY_NAME["float32"], (3, 3), boxes)
    found = pickle.loads(Description({"w": entry}, places, {"w": ("w",)}).data({}))
    assert [(each.index, each.offset) for each in found.storage_data] == [
        (0, torch.Size([0, 0])), (1, torch.Size([2, 0])),
    ]  # fmt: skip


def test_ours_is_read_back(tmp_path: Path) -> None:
    boxes = (Box((0,), (300,)), Box((300,), (70_000,)))
    places = {("w", box.offsets): Place("a", n, 1 << 35) for n, box in enumerate(boxes)}
    tensors = {"w": TensorEntry(BY_NAME["float8_e5m2"], (70_300,), boxes)}
    said = Description(tensors, places, {"w": ("model", "w")})
    value = Value(Place("a", 5, 6), ("extra", 3))
    for values in ({"v": value}, {}, {"v": value, "model": value._replace(path=("w",))}):
        (tmp_path / ".metadata").write_bytes(said.data(values))
        read = read_metadata(Folder(str(tmp_path)))
        assert read.entries == {**tensors, **dict.fromkeys(values)}
        assert read.places == {**places, **{(n, None): v.place for n, v in values.items()}}
        assert read.paths == {"w": ("model", "w"), **{n: v.path for n, v in values.items()}}
        assert read.symbols == ()
