"""A box of a stored tensor read into a live one: its elements' bytes, and hardly any others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from holdfast.arrays.dense import span
from holdfast.io.source import Source
from holdfast.spec.index import Extent, TensorRef
from holdfast.tensors.storages import memory_of
from holdfast.tensors.windows import Pair, copy_window

#: Runs of elements that lie one behind the other are read by themselves from this many bytes on;
#: what lies between shorter ones costs less to read than a call for each.
_RUN = 2048
#: What is in memory at once of those.
_SPAN = 32 << 20


def read_box(
    source: Source,
    extent: Extent,
    pair: Pair,
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Fill a live tensor with the elements of a reference that has a part of its storage.

    Checksums are of whole storages, and are not compared here.

    Raises:
        TruncatedError: the source ends early.
    """
    if not pair.ref.numel:
        return
    run, outer = _run(pair.ref)
    if run * pair.ref.dtype.itemsize < _RUN:
        for each in _halved(pair):
            copy_window(source, extent, each, on_progress)
    elif _is_plain(pair):
        _read_runs(source, extent, pair.ref, pair.live, (run, outer), on_progress)
    else:
        value = torch.empty(pair.ref.shape, dtype=pair.live.dtype)
        if _is_plain(Pair(pair.ref, value)):
            _read_runs(source, extent, pair.ref, value, (run, outer), on_progress)
            with torch.no_grad():
                pair.live.detach().copy_(value)
        else:  # another element type, or conjugated
            for each in _halved(pair):
                copy_window(source, extent, each, on_progress)


def _is_plain(pair: Pair) -> bool:
    ref, live = pair.ref, pair.live
    return (
        live.device.type == "cpu"
        and live.is_contiguous()
        and str(live.dtype) == ref.dtype.torch_name
        and not (live.is_conj() or live.is_neg() or ref.is_conj or ref.is_neg)
    )


def _run(ref: TensorRef) -> tuple[int, int]:
    """How many elements lie one behind the other, and along how many first axes they do not."""
    run, outer = 1, len(ref.shape)
    for size, step in zip(reversed(ref.shape), reversed(ref.stride), strict=True):
        if size != 1 and step != run:
            break
        run *= size
        outer -= 1
    return run, outer


def _starts(ref: TensorRef, outer: int) -> Iterator[int]:
    """Where each run begins, in elements of the storage, in C order."""

    def along(axis: int, at: int) -> Iterator[int]:
        if axis == outer:
            yield at
            return
        for place in range(ref.shape[axis]):
            yield from along(axis + 1, at + place * ref.stride[axis])

    return along(0, ref.offset)


def _read_runs(
    source: Source,
    extent: Extent,
    ref: TensorRef,
    live: torch.Tensor,
    runs: tuple[int, int],
    on_progress: Callable[[int], object] | None,
) -> None:
    run, outer = runs
    flat = live.detach()
    memory, size = memory_of(flat.untyped_storage()), ref.dtype.itemsize
    to, nbytes = flat.storage_offset() * size, run * size
    for start in _starts(ref, outer):
        source.read_into(extent.offset + start * size, memory[to : to + nbytes])
        to += nbytes
        if on_progress is not None:
            on_progress(nbytes)


def _halved(pair: Pair) -> Iterator[Pair]:
    """Pieces of a pair along their first axes, each with few bytes between its ends."""
    ref, live = pair.ref, pair.live
    nbytes = span(ref.shape, ref.stride) * ref.dtype.itemsize
    axis = next((axis for axis, size in enumerate(ref.shape) if size > 1), None)
    if nbytes <= _SPAN or axis is None:
        yield pair
        return
    half = ref.shape[axis] // 2
    for low, high in ((0, half), (half, ref.shape[axis])):
        shape = (*ref.shape[:axis], high - low, *ref.shape[axis + 1 :])
        part = replace(ref, shape=shape, offset=ref.offset + low * ref.stride[axis])
        yield from _halved(Pair(part, live.narrow(axis, low, high - low)))


def is_part(ref: TensorRef, extent: Extent) -> bool:
    """Whether a reference has less than all of its storage."""
    return math.prod(ref.shape) * ref.dtype.itemsize < extent.nbytes
