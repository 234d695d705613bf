"""Read the header of a safetensors file: a flat tree of tensors and where they lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.errors import FormatError, RefusedError
from holdfast.formats import strict_json
from holdfast.formats.safetensors.header import Header, read_header
from holdfast.formats.safetensors.seal import CRCS, SEAL
from holdfast.io.source import Source
from holdfast.spec import record as records
from holdfast.spec.index import Extent, Index, StorageRef, TensorRef
from holdfast.spec.strides import contiguous

#: The key of the metadata under which the record is kept.
RECORD = "holdfast"
_OWN = (RECORD, CRCS, SEAL, "format")
_HEX = re.compile(r"[0-9a-f]{8}")


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """What a safetensors file holds, from its header: name to tensor, each in its own storage.

    Tied weights, of which one alone is stored, are in the tree under their other names too: behind
    the rest, in the storage of the one that was kept.

    Raises:
        TruncatedError: the file ends before its last tensor does.
        RefusedError: a rule for hostile files is broken.
        FormatError: the header is no JSON.
    """
    header = read_header(source)
    record, notes = _record(source, header.metadata)
    crcs, more = _crcs(source, header.metadata)
    tree, extents = _placed(source, header, crcs)
    ties, notes_on_ties = _ties(header, tree)
    return Index(
        file=source.name,
        format="safetensors",
        tree={**tree, **ties},
        extents=extents,
        record=record,
        file_nbytes=source.size,
        notes=(*notes, *more, *notes_on_ties),
        metadata=header.metadata,
    )


def _placed(
    source: Source, header: Header, crcs: Mapping[str, int]
) -> tuple[dict[str, TensorRef], dict[str, Extent]]:
    tree: dict[str, TensorRef] = {}
    extents: dict[str, Extent] = {}
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}
    file, start = source.name, source.origin + header.start
    for name, dtype, shape, begin, nbytes in header.entries:
        if dtype.safetensors == "F4":
            shape = _halved(source, name, shape)
        stride = strides.get(shape)
        if stride is None:
            stride = strides[shape] = contiguous(shape)
        storage = StorageRef(name, dtype, nbytes * 8 // dtype.bits)
        tree[name] = TensorRef(dtype, shape, stride, storage)
        extents[name] = Extent(file, start + begin, nbytes, crcs.get(name), name)
    return tree, extents


def _halved(source: Source, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch's elements, which are pairs."""
    if not shape or shape[-1] % 2:
        raise RefusedError(
            "refused: numbers of four bits come in pairs along the last axis",
            file=source.name,
            tensor=name[:200],
            found=f"shape {list(shape)}"[:200],
            cure="torch has no tensor for it either.",
        )
    return (*shape[:-1], shape[-1] // 2)


def _record(
    source: Source, metadata: Mapping[str, str]
) -> tuple[records.Record | None, tuple[str, ...]]:
    """The record that convert has kept; one that is broken is a note."""
    if RECORD not in metadata:
        return None, ()
    try:
        return records.decode(metadata[RECORD].encode(), file=source.name), ()
    except FormatError as error:
        return None, (f"{error.what}: {error.found}",)


def _crcs(source: Source, metadata: Mapping[str, str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The CRC-32 of each tensor that convert has kept; text of another kind is a note."""
    if CRCS not in metadata:
        return {}, ()
    try:
        listed: Any = strict_json.decode(
            metadata[CRCS].encode(), what="the list of checksums", file=source.name
        )
    except FormatError as error:
        return {}, (f"{error.what}: {error.found}",)
    if type(listed) is not dict or not all(
        type(text) is str and _HEX.fullmatch(text) for text in listed.values()
    ):
        return {}, (f"{CRCS} in the metadata is no list of checksums",)
    return {name: int(text, 16) for name, text in listed.items()}, ()


def _ties(
    header: Header, tree: Mapping[str, TensorRef]
) -> tuple[dict[str, TensorRef], tuple[str, ...]]:
    """What the metadata says of tied weights: ``{left out: kept}``, as ``save_model`` writes it.

    The other text of somebody's metadata may be a tensor's name by chance. So both names end in the
    same step (``head.weight``, ``embed.weight``) where the file is not ours; of others there is a
    note.
    """
    is_ours = RECORD in header.metadata
    ties, notes = {}, []
    for name, kept in header.metadata.items():
        if name in tree or kept not in tree or name in _OWN:
            continue
        if is_ours or name.rpartition(".")[2] == kept.rpartition(".")[2]:
            ties[name] = replace(tree[kept])
        else:
            notes.append(f"{name} may be another name of {kept}: the metadata says {kept}")
    return ties, tuple(notes[:100])
