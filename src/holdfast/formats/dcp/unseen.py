"""Checksums of slices that another process has looked at, where this one reads them whole."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace

from holdfast.formats.dcp.headers import crc_around, not_as_written
from holdfast.formats.dcp.write import slice_of
from holdfast.io.source import Source
from holdfast.spec.index import ChunkedRef, Index, TensorRef
from holdfast.spec.tree import walk


def with_checksums(index: Index, source: Source, keys: Container[str]) -> Index:
    """An index that is shared, with the CRC of each of these storages from its slice's headers.

    Of a folder whose headers are compared by several processes each knows the CRCs of its share.
    What it reads whole is compared as it is read, on this machine, so it needs those of that, too.

    Raises:
        HeadersError: a slice is not what this program writes.
        TruncatedError: its file became shorter.
    """
    extents = dict(index.extents)
    for ref in _plain(index):
        assert ref.storage is not None
        key = ref.storage.key
        extent = extents[key]
        if key not in keys or extent.expected_crc is not None:
            continue
        planned, file = slice_of(ref.dtype, ref.shape), source.of(extent.file)
        start = extent.offset - len(planned.head)
        crc = crc_around(file, start, planned)
        if crc is None:
            raise not_as_written(file.name, start, planned.whole_nbytes)
        extents[key] = extent._replace(expected_crc=crc)
    return replace(index, extents=extents)


def _plain(index: Index) -> Iterator[TensorRef]:
    """Every tensor of a slice; the others are in torch files of their own, which all have read."""
    for _, leaf in walk(index.tree):
        if isinstance(leaf, ChunkedRef):
            yield from (chunk.ref for chunk in leaf.chunks)
        elif isinstance(leaf, TensorRef) and leaf.storage is not None:
            yield leaf
