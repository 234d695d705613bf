"""Read the headers of a folder: its metadata, and those of every slice of its files."""

from __future__ import annotations

from typing import Any

from holdfast.errors import FormatError, NotACheckpointError, RefusedError
from holdfast.formats.dcp import tiling
from holdfast.formats.dcp.layout import NAME, Box, Key, Metadata, TensorEntry
from holdfast.formats.dcp.metadata import read_metadata
from holdfast.formats.dcp.nesting import nested
from holdfast.formats.dcp.seal import Seal, seal_of, sealed_extents
from holdfast.formats.dcp.slices import Slices, read_slices
from holdfast.io.source import Folder, Source
from holdfast.spec import record as records
from holdfast.spec.dtypes import DType
from holdfast.spec.index import Chunk, ChunkedRef, Extent, Index, Opaque, TensorRef

_MOST_RECORD = 128 << 20  # ten million checksums, and what a run says of itself


def read_index(
    source: Source,
    *,
    encoding: str = "utf-8",
    share: tuple[int, int] = (0, 1),
) -> Index:
    """What a folder of torch.distributed.checkpoint holds, nested as the state that was saved.

    With a ``share`` (number, count) the headers of its pieces are compared in that part alone, if
    the folder is ours: its record has checksums of all bytes, which are shared in the same way.

    Raises:
        FormatError: a file is missing, or the folder is not laid out as torch does.
        TruncatedError: a slice goes beyond the end of its file.
        DamagedError: a slice's headers are not those that were saved.
        RefusedError: a rule for hostile files is broken.
    """
    assert isinstance(source, Folder)
    if not source.has(NAME):
        raise _unfinished(source)
    metadata = read_metadata(source, encoding=encoding)
    record, found, extra = _record(source)
    slices = read_slices(
        source, metadata, encoding=encoding, share=share if found is not None else (0, 1)
    )
    values = {name: _node(source, slices, name, entry) for name, entry in metadata.entries.items()}
    described = _whole(source, NAME)
    places = list(metadata.places.values())
    return Index(
        file=source.name,
        format="dcp",
        tree=nested(values, metadata.paths, file=source.name),
        extents=slices.extents,
        record=record,
        byteorder=_byteorder(source, slices),
        other=(described, *extra, *slices.other),
        file_nbytes=slices.nbytes + sum(each.nbytes for each in (described, *extra)),
        sealed=() if found is None else sealed_extents(source, places, found),
        is_shared=slices.is_shared,
        notes=_notes(metadata, slices),
        symbols=tuple(dict.fromkeys((*metadata.symbols, *slices.symbols))),
    )


def _node(folder: Folder, slices: Slices, name: str, entry: TensorEntry | None) -> Any:
    if entry is not None:
        return _tensor(folder, slices, name, entry)
    if (name, None) not in slices.trees:
        raise _refused(folder, "every value has a slice", name)
    return slices.trees[name, None]


def _tensor(folder: Folder, slices: Slices, name: str, entry: TensorEntry) -> Any:
    rule = tiling.broken_rule(entry.shape, entry.boxes)
    if rule is not None:
        raise _refused(folder, rule, name, f"{len(entry.boxes):,} pieces of {entry.shape}")
    boxes = [box for box in entry.boxes if 0 not in box.sizes] or list(entry.boxes[:1])
    pieces = [_piece(folder, slices, name, entry.dtype, box) for box in boxes]
    if len(pieces) == 1 and boxes[0].sizes == entry.shape:
        return pieces[0]
    if not all(isinstance(piece, TensorRef) for piece in pieces):
        raise _refused(folder, "pieces of tensors are plain tensors", name)
    chunks = tuple(
        Chunk(box.offsets, piece)
        for box, piece in zip(boxes, pieces, strict=True)
        if 0 not in box.sizes
    )
    return ChunkedRef(entry.dtype, entry.shape, chunks)


def _piece(folder: Folder, slices: Slices, name: str, dtype: DType, box: Box) -> Any:
    key: Key = (name, box.offsets)
    if key not in slices.trees:
        key = (name, None)  # the oldest files say nothing of where a whole tensor begins
    if key not in slices.trees:
        raise _refused(folder, "every piece of a tensor has a slice", name, str(box.offsets))
    ref = slices.trees[key]
    if isinstance(ref, Opaque):
        return ref
    if not isinstance(ref, TensorRef) or (ref.dtype, ref.shape) != (dtype, box.sizes):
        found = (
            f"{ref.dtype.torch_name} {ref.shape}"
            if isinstance(ref, TensorRef)
            else f"a {type(ref).__name__}"
        )
        raise RefusedError(
            "refused: a slice holds the tensor that the folder's description says",
            file=folder.name,
            tensor=name[:200],
            wanted=f"{dtype.torch_name} {box.sizes}",
            found=found,
            cure="The folder is broken, or made to do harm: do not load it with anything else.",
        )
    return ref


def _record(folder: Folder) -> tuple[records.Record | None, Seal | None, list[Extent]]:
    if not folder.has(records.MEMBER):
        return None, None, []
    source = folder.open(records.MEMBER)
    if source.size > _MOST_RECORD:
        raise _refused(folder, "a record is small", None, f"{source.size:,} bytes")
    data = source.read_at(0, source.size)
    record = records.decode(data, file=source.name)
    return record, seal_of(data, file=folder.name), [_whole(folder, records.MEMBER)]


def _whole(folder: Folder, name: str) -> Extent:
    source = folder.open(name)
    return Extent(source.name, 0, source.size, None, name)


def _byteorder(folder: Folder, slices: Slices) -> str:
    if len(slices.byteorders) > 1:
        raise _refused(folder, "all bytes of a checkpoint are in one order", None)
    return next(iter(slices.byteorders), "little")


def _notes(metadata: Metadata, slices: Slices) -> tuple[str, ...]:
    unused = [name for name, _ in slices.trees if name not in metadata.entries]
    if not unused:
        return ()
    return (f"nothing uses {len(unused)} of the slices, such as that of {unused[0][:100]}",)


def _unfinished(folder: Folder) -> NotACheckpointError | FormatError:
    parts = [name for name in folder.names() if name.endswith((".distcp", NAME))]
    own = [name for name in parts if name.endswith(NAME)]
    if own:
        return FormatError(
            "each process described its own share of this checkpoint, and nobody the whole",
            file=folder.name,
            wanted=NAME,
            found=", ".join(own[:3]),
            cure="Load it with the number of processes that saved it, and save with collectives.",
        )
    return FormatError(
        "this save was never finished: no file says what the others hold",
        file=folder.name,
        wanted=NAME,
        found=", ".join(parts[:3]) or "nothing",
        cure="Use an earlier checkpoint: torch writes that file last of all.",
    )


def _refused(folder: Folder, rule: str, name: str | None, found: str | None = None) -> RefusedError:
    return RefusedError(
        f"refused: {rule}",
        file=folder.name,
        tensor=None if name is None else name[:200],
        found=found,
        cure="The folder is broken, or made to do harm: do not load it with anything else.",
    )
