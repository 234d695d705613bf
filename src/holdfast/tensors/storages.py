"""Storages of a checkpoint, each read once: straight into torch's memory, its CRC checked."""

from __future__ import annotations

import mmap as mmap_module
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from holdfast.errors import RefusedError, UsageError
from holdfast.io.checksum import crc32_of
from holdfast.io.pages import advise_large_pages
from holdfast.io.reading import Place, read_all
from holdfast.io.source import Source
from holdfast.pickles.limits import nodes
from holdfast.report.damage import compare
from holdfast.spec.index import Extent, Index, StorageRef, TensorRef
from holdfast.spec.tree import walk
from holdfast.tensors.locate import is_meta, restorer

#: From this many bytes on threads help.
_WORTH_NBYTES = 16 << 20
#: Kernels expect elements at addresses that they divide; what lies elsewhere is read instead.
_MAPPED_ALIGNMENT = 16


class Storages:
    """The storages of one checkpoint; tensors that share one in the file share it in memory.

    ``verify`` None checks CRCs unless ``mmap``; ``on_progress`` gets the number of bytes of each
    piece read.
    """

    def __init__(
        self,
        index: Index,
        source: Source,
        *,
        map_location: Any = "cpu",
        mmap: bool = False,
        verify: bool | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        self._index, self._source = index, source
        self._on_progress = on_progress
        self._restore = restorer(map_location)
        self._is_meta = is_meta(map_location)
        self._stays = str(map_location) == "cpu"
        self._verify = not mmap if verify is None else verify
        self._maps = mmap and not self._is_meta
        self._mappings: dict[str, torch.UntypedStorage] = {}
        if self._maps and not source.is_folder:
            self._mapping_of(source.name)  # what cannot be mapped is an error at once
        self._made: dict[str, torch.UntypedStorage] = {}
        self._swaps = index.byteorder != sys.byteorder
        self._widths: dict[str, int] | None = None

    def read_ahead(self, tree: Any) -> None:
        """Read all that a tree refers to at once, by several threads, where it stays on the CPU.

        Raises:
            DamagedError: bytes are not those that were saved.
            TruncatedError: the file ends before them.
        """
        if self._maps or self._is_meta or not self._stays:
            return
        refs = {ref.key: ref for ref in _storage_refs(tree)}
        if sum(self._index.extents[key].nbytes for key in refs) < _WORTH_NBYTES:
            return
        storages = self._filled([self._index.extents[key] for key in refs])
        for ref, storage in zip(refs.values(), storages, strict=True):
            if self._swaps:
                self._swap(ref, storage)
            self._made[ref.key] = storage

    def get(self, ref: StorageRef) -> torch.UntypedStorage:
        """The storage of a reference, on its device.

        Raises:
            DamagedError: its bytes are not those that were saved.
            TruncatedError: the file ends before them.
        """
        found = self._made.get(ref.key)
        if found is None:
            found = self._read(ref)
            self._made[ref.key] = found
        return found

    def _read(self, ref: StorageRef) -> torch.UntypedStorage:
        extent = self._index.extents[ref.key]
        if self._is_meta:
            empty: torch.UntypedStorage = torch.UntypedStorage(extent.nbytes, device="meta")
            empty._checkpoint_offset = extent.offset  # as torch.load does, for late readers
            return empty
        if self._maps and extent.offset % _MAPPED_ALIGNMENT == 0:
            storage = self._map(extent)
        else:
            [storage] = self._filled([extent])
        if self._swaps:
            self._swap(ref, storage)
        return self._restore(storage, ref.location)

    def _filled(self, extents: Sequence[Extent]) -> list[torch.UntypedStorage]:
        """New storages with the bytes of these extents."""
        storages = [fresh(extent.nbytes) for extent in extents]
        crcs = read_all(
            [
                Place(self._source.of(extent.file), extent.offset, memory_of(storage))
                for extent, storage in zip(extents, storages, strict=True)
            ],
            on_progress=self._on_progress,
        )
        for extent, crc in zip(extents, crcs, strict=True):
            if self._verify and extent.expected_crc is not None:
                compare(self._index, extent, crc)
        return storages

    def _map(self, extent: Extent) -> torch.UntypedStorage:
        if self._verify and extent.expected_crc is not None:
            source = self._source.of(extent.file)
            compare(self._index, extent, crc32_of(source, extent.offset, extent.nbytes))
        mapping = self._mapping_of(extent.file)
        mapped: torch.UntypedStorage = mapping[extent.offset : extent.offset + extent.nbytes]
        return mapped

    def _mapping_of(self, file: str) -> torch.UntypedStorage:
        if file not in self._mappings:
            self._mappings[file] = _mapping(self._source.of(file))
        return self._mappings[file]

    def _swap(self, ref: StorageRef, storage: torch.UntypedStorage) -> None:
        """Swap the bytes of each element, of each component where elements are complex."""
        if self._widths is None:
            self._widths = _widths(self._index)
        width = self._widths.get(ref.key, 1)
        if width > 1:
            storage._byteswap(width)


def fresh(nbytes: int) -> torch.UntypedStorage:
    """Memory for so many bytes on the CPU, in large pages where the system has them."""
    storage: torch.UntypedStorage = torch.UntypedStorage(nbytes)
    advise_large_pages(storage.data_ptr(), nbytes)
    return storage


def _storage_refs(tree: Any) -> Iterator[StorageRef]:
    for _, leaf in walk(tree):
        ref = getattr(leaf, "storage", leaf)
        if isinstance(ref, StorageRef):
            yield ref


def place_of(live: torch.Tensor) -> object:
    """What is equal for two live tensors only where they are the same elements in memory."""
    is_plain = type(live) in (torch.Tensor, torch.nn.Parameter) and live.layout is torch.strided
    if not is_plain or not live.data_ptr():  # without memory, or with no elements
        return id(live)
    return (live.data_ptr(), tuple(live.shape), live.stride())


def memory_of(storage: torch.UntypedStorage) -> memoryview:
    """The bytes of a storage on the CPU, writable."""
    array: Any = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).numpy()
    return memoryview(array)


def _mapping(source: Source) -> torch.UntypedStorage:
    """The whole file, mapped: changes stay in memory and never reach the file."""
    fileno = getattr(source, "fileno", None)
    if fileno is None:
        raise UsageError(
            "mmap=True needs a path",
            found=source.name,
            cure="Give the path, or leave mmap out: reading is about as fast.",
        )
    mapping = mmap_module.mmap(fileno(), source.size, access=mmap_module.ACCESS_COPY)
    return torch.frombuffer(mapping, dtype=torch.uint8).untyped_storage()


def _widths(index: Index) -> dict[str, int]:
    """Bytes to swap at a time, by storage; an untyped storage has its tensors' element type."""
    widths: dict[str, int] = {}
    for node in nodes(index.tree):
        if isinstance(node, TensorRef) and node.storage is not None:
            dtype, key = node.dtype, node.storage.key
        elif isinstance(node, StorageRef) and not node.is_untyped:
            dtype, key = node.dtype, node.key
        else:
            continue
        width = dtype.itemsize // (2 if dtype.is_complex else 1)
        if widths.setdefault(key, width) != width:
            raise RefusedError(
                "refused: tensors of one storage have elements of one size in a file whose bytes "
                "must be swapped",
                file=index.file,
                member=index.extents[key].member,
            )
    return widths
