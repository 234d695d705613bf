"""Read tensors straight into the memory of live ones: no second copy, each CRC taken again.

Whatever asks for it (another layout, device, element type) goes through a window of its own
(``windows``), which is let go before the next.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from holdfast.errors import HoldfastError, RestoreInterrupted
from holdfast.io.checksum import crc32
from holdfast.io.reading import Place, read_all
from holdfast.io.source import Source
from holdfast.report.damage import compare
from holdfast.spec.index import ChunkedRef, Extent, Index, TensorRef
from holdfast.tensors.boxes import is_part, read_box
from holdfast.tensors.materialise import materialise
from holdfast.tensors.storages import memory_of, place_of
from holdfast.tensors.windows import Pair, copy_windows

log = logging.getLogger("holdfast")

#: What is read of a storage at once where only some of it is wanted.
_PIECE = 8 << 20


class Target(NamedTuple):
    """A stored tensor, and the live one that is to have its elements.

    ``without_memory`` is the parameter on the meta device whose memory it is going to be. With
    ``is_box`` the reference is a box of what was saved: of its storages no more is read than that.
    """

    ref: TensorRef | ChunkedRef
    live: torch.Tensor
    without_memory: torch.Tensor | None = None
    is_box: bool = False


def nbytes_of(index: Index, targets: Iterable[Target]) -> int:
    """The bytes that are read for some targets: whole storages, and boxes of them."""
    boxes, rest = _boxes(index, targets)
    whole = sum(index.extents[key].nbytes for key in {_key(pair) for pair in rest})
    return whole + sum(pair.ref.numel * pair.ref.dtype.itemsize for pair in boxes)


def whole_storages(index: Index, targets: Iterable[Target]) -> set[str]:
    """The keys of the storages of which all is read, and compared with its checksum."""
    return {_key(pair) for pair in _boxes(index, targets)[1]}


def read_into(
    index: Index,
    source: Source,
    targets: Sequence[Target],
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Fill live tensors; the version counter of each goes up, so that autograd notices.

    ``on_progress`` gets the number of bytes of each piece read, from several threads.

    Raises:
        RestoreInterrupted: the file changed since it was verified, or the disk failed: some of the
            live tensors have been written.
    """
    try:
        # Of two for the same memory the last counts, as in torch, whichever is read first.
        last = {place_of(target.live): target for target in targets}
        boxes, rest = _boxes(index, last.values())
        for pair in boxes:
            extent = index.extents[_key(pair)]
            read_box(source.of(extent.file), extent, pair, on_progress)
        direct, windows, others = _grouped(index, rest)
        _fill_all(index, source, direct, on_progress)
        for key, pairs in windows.items():
            extent = index.extents[key]
            home = source.of(extent.file)
            _compare(index, extent, copy_windows(home, extent, pairs, on_progress))
        for group in others:
            _copy(index, source, group)
    except (HoldfastError, OSError, RuntimeError, MemoryError) as error:  # those are torch's
        raise RestoreInterrupted(
            "the file could no longer be read while live tensors were written",
            file=index.file,
            found=str(error).partition("\n")[0],
            cure="Load the state again before using it: some tensors are new, others are not.",
        ) from error
    except BaseException as error:  # an interrupted cell of a notebook is followed by the next one
        _leave_word(index, error)
        raise
    finally:
        torch.autograd.graph.increment_version([target.live for target in targets])


def _leave_word(index: Index, error: BaseException) -> None:
    """Say what an interruption has left, in the log and (from Python 3.11) in its traceback."""
    word = (
        f"loading {index.file} was interrupted while live tensors were written: some are new, "
        "others are not. Load the state again before using it."
    )
    log.warning("%s", word)
    if sys.version_info >= (3, 11):
        error.add_note(word)


def _boxes(index: Index, targets: Iterable[Target]) -> tuple[list[Pair], list[Pair]]:
    """The pairs of which a part of a storage is read, and the others."""
    boxes: list[Pair] = []
    rest: list[Pair] = []
    for target in targets:
        for pair in _pieces([target]):
            is_one = target.is_box and index.byteorder == sys.byteorder and pair.ref.dtype.bits >= 8
            is_one = is_one and is_part(pair.ref, index.extents[_key(pair)])
            (boxes if is_one else rest).append(pair)
    return boxes, rest


def _key(pair: Pair) -> str:
    assert pair.ref.storage is not None  # late.py takes no others
    return pair.ref.storage.key


def _pieces(targets: Iterable[Target]) -> Iterator[Pair]:
    """Each tensor with a storage; of one in pieces each of them, with its box of the live one."""
    for ref, live, *_ in targets:
        if isinstance(ref, TensorRef):
            yield Pair(ref, live)
            continue
        for chunk in ref.chunks:
            sizes = zip(chunk.offsets, chunk.ref.shape, strict=True)
            yield Pair(chunk.ref, live.detach()[tuple(slice(at, at + n) for at, n in sizes)])


class _Groups(NamedTuple):
    """Tensors by the storage they are in.

    The bytes of some are the live ones', others are copied from a window; where bytes must be
    swapped the whole storage is built.
    """

    direct: dict[str, list[Pair]]
    windows: dict[str, list[Pair]]
    swapped: list[list[Pair]]


def _grouped(index: Index, pairs: Iterable[Pair]) -> _Groups:
    groups: tuple[dict[str, list[Pair]], ...] = ({}, {}, {})
    for pair in pairs:
        assert pair.ref.storage is not None  # late.py takes no others
        is_swapped = index.byteorder != sys.byteorder or pair.ref.dtype.bits < 8
        group = groups[2 if is_swapped else 0 if _is_direct(pair) else 1]
        group.setdefault(pair.ref.storage.key, []).append(pair)
    return _Groups(groups[0], groups[1], list(groups[2].values()))


def _is_direct(pair: Pair) -> bool:
    """Whether the bytes in the file are those that the live tensor has in memory."""
    ref, live = pair
    return (
        live.device.type == "cpu"
        and live.layout is torch.strided
        and live.is_contiguous()
        and not (live.is_conj() or live.is_neg() or ref.is_conj or ref.is_neg)
        and str(live.dtype) == ref.dtype.torch_name
        and tuple(live.shape) == ref.shape
        and _is_contiguous(ref)
    )


def _is_contiguous(ref: TensorRef) -> bool:
    expected = 1
    for size, step in zip(reversed(ref.shape), reversed(ref.stride), strict=True):
        if size != 1 and step != expected:
            return ref.numel == 0
        expected *= size
    return True


def _fill_all(
    index: Index,
    source: Source,
    direct: dict[str, list[Pair]],
    on_progress: Callable[[int], object] | None,
) -> None:
    """Every storage once, several at a time; those that one tensor has whole go as they are."""
    whole: list[tuple[Extent, Place]] = []
    shared: list[tuple[Extent, list[tuple[int, memoryview]]]] = []
    for key, targets in direct.items():
        extent = index.extents[key]
        places = sorted(_places(targets), key=lambda place: place[0])
        if len(places) == 1 and places[0][0] == 0 and len(places[0][1]) == extent.nbytes:
            home = source.of(extent.file)
            whole.append((extent, Place(home, extent.offset, places[0][1])))
        else:
            shared.append((extent, places))
    crcs = read_all([place for _, place in whole], on_progress=on_progress)
    for (extent, _), crc in zip(whole, crcs, strict=True):
        _compare(index, extent, crc)
    for extent, places in shared:
        _compare(index, extent, _fill_some(source.of(extent.file), extent, places))


def _compare(index: Index, extent: Extent, crc: int) -> None:
    if extent.expected_crc is not None:
        compare(index, extent, crc)


def _fill_some(source: Source, extent: Extent, places: Iterable[tuple[int, memoryview]]) -> int:
    """Read a storage piece by piece, and hand each run of it to the tensors that have it."""
    piece, crc = memoryview(bytearray(min(_PIECE, extent.nbytes))), 0
    for start in range(0, extent.nbytes, _PIECE):
        part = piece[: min(_PIECE, extent.nbytes - start)]
        source.read_into(extent.offset + start, part)
        crc = crc32(part, crc)
        for begin, memory in places:
            low, high = max(begin, start), min(begin + len(memory), start + len(part))
            if low < high:
                memory[low - begin : high - begin] = part[low - start : high - start]
    return crc


def _places(targets: list[Pair]) -> Iterator[tuple[int, memoryview]]:
    """Where in its storage each tensor begins (bytes), and the memory of the live one."""
    for ref, live in targets:
        flat = live.detach()
        memory = memory_of(flat.untyped_storage())
        start = flat.storage_offset() * flat.element_size()
        nbytes = flat.numel() * flat.element_size()
        yield ref.offset * ref.dtype.itemsize, memory[start : start + nbytes]


def _copy(index: Index, source: Source, targets: list[Pair]) -> None:
    """Build the tensors of one storage, and copy them into the live ones."""
    built = materialise(replace(index, tree=[ref for ref, _ in targets]), source)
    with torch.no_grad():
        for (_, live), value in zip(targets, built, strict=True):
            live.detach().copy_(value.detach())
