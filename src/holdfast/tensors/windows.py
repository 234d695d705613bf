"""Stored tensors copied into live ones that ask for other bytes, a window of a storage at a time.

Another layout, device or element type asks for a tensor to copy from. It is made of just the bytes
between its first element and its last, and let go before the next one is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from holdfast.arrays.dense import span
from holdfast.io.checksum import crc32_combine, crc32_of
from holdfast.io.reading import Place, read_all
from holdfast.io.source import Source
from holdfast.spec.index import Extent, StorageRef, TensorRef
from holdfast.tensors.build import dense
from holdfast.tensors.storages import fresh, memory_of

#: In memory a window begins as far behind a multiple of this as in its storage: elements of any
#: type are whole numbers of elements from the beginning then.
_ALIGNMENT = 16


class Pair(NamedTuple):
    """A stored tensor with a storage, and the live one that is to have its elements."""

    ref: TensorRef
    live: torch.Tensor


class _Window(NamedTuple):
    """Bytes of a storage, from ``start`` on, and the tensors whose elements they are."""

    start: int
    stop: int
    pairs: list[Pair]


class _Bytes:
    """The storage that references are built from, wherever they say that it is."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._storage = storage

    def get(self, ref: StorageRef) -> torch.UntypedStorage:
        return self._storage


def copy_windows(
    source: Source,
    extent: Extent,
    pairs: Sequence[Pair],
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Copy tensors of one storage into live ones, and return the CRC-32 of the whole storage.

    Each byte is read once. In memory is one window: a tensor, or several that overlap.

    Raises:
        TruncatedError: the source ends early.
    """
    crc = at = 0
    for window in [*_windows(pairs), _Window(extent.nbytes, extent.nbytes, [])]:
        gap = window.start - at
        skipped = crc32_of(source, extent.offset + at, gap, on_progress=on_progress)
        crc = crc32_combine(crc, skipped, gap)
        copied = _copy(source, extent, window, on_progress)
        crc = crc32_combine(crc, copied, window.stop - window.start)
        at = window.stop
    return crc


def _windows(pairs: Sequence[Pair]) -> list[_Window]:
    """What the tensors have of a storage, in its order; those that overlap are in one window."""
    windows: list[_Window] = []
    spans = [_Window(*_span(pair.ref), [pair]) for pair in pairs if pair.ref.numel]
    for start, stop, those in sorted(spans, key=lambda span: span.start):
        last = windows[-1] if windows else None
        if last is not None and start < last.stop:
            last.pairs.extend(those)
            windows[-1] = last._replace(stop=max(stop, last.stop))
        else:
            windows.append(_Window(start, stop, those))
    return windows


def _span(ref: TensorRef) -> tuple[int, int]:
    """The bytes of its storage from a tensor's first element to behind its last."""
    stop = ref.offset + span(ref.shape, ref.stride)
    return ref.offset * ref.dtype.itemsize, stop * ref.dtype.itemsize


def copy_window(
    source: Source,
    extent: Extent,
    pair: Pair,
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Copy one tensor of a storage into a live one, from the bytes between its ends."""
    _copy(source, extent, _Window(*_span(pair.ref), [pair]), on_progress)


def _copy(
    source: Source,
    extent: Extent,
    window: _Window,
    on_progress: Callable[[int], object] | None,
) -> int:
    """Read a window and copy its tensors; the CRC-32 of its bytes."""
    pad, nbytes = window.start % _ALIGNMENT, window.stop - window.start
    storage = fresh(pad + nbytes)
    place = Place(source, extent.offset + window.start, memory_of(storage)[pad:])
    [crc] = read_all([place], on_progress=on_progress)
    for ref, live in window.pairs:
        offset = ref.offset - (window.start - pad) // ref.dtype.itemsize
        value = dense(replace(ref, offset=offset), _Bytes(storage), lambda node: node)
        with torch.no_grad():
            live.detach().copy_(value.detach())
    return crc
