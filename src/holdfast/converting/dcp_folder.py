"""A folder of torch.distributed.checkpoint: planned first, then streamed into one file of data.

Models and the states of optimizers are taken apart to their tensors, as torch does it
(``_traverse.py``), so that its own loaders find them; everything else is a value, whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeAlias

from holdfast.converting import torch_file
from holdfast.converting.items import Elements, Item
from holdfast.converting.tree import Rebuilt
from holdfast.converting.types import dtype_of
from holdfast.errors import UsageError
from holdfast.formats.dcp.description import write_metadata
from holdfast.formats.dcp.layout import MOST_ENTRIES, NAME, Box, Key, Metadata, Place, TensorEntry
from holdfast.formats.dcp.seal import joined, seal
from holdfast.formats.dcp.write import Slice, slice_of
from holdfast.io.checksum import crc32
from holdfast.io.commit_folder import NewFolder
from holdfast.io.sink import Checking, Sink
from holdfast.report.leaves import inside
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import SIZED, ChunkedRef, Opaque, SparseRef, TensorRef
from holdfast.spec.record import MEMBER
from holdfast.spec.tree import Path

SUFFIX = ".dcp"
_FILE = "__0_0.distcp"

#: A tensor with its slice, or a value as a whole torch file.
_Piece: TypeAlias = "tuple[Item, Slice] | torch_file.TorchFile"


@dataclass(slots=True)
class DcpFolder:
    """A folder that is planned: what is in its one file of data, by name, in order.

    ``left_out`` names what has no plain form, ``changed`` what is another kind of thing now.
    """

    file: str
    pieces: dict[str, _Piece] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)

    @property
    def items(self) -> Iterator[Item]:
        """The tensors that have slices of their own, and those in values."""
        for piece in self.pieces.values():
            if isinstance(piece, tuple):
                yield piece[0]
            else:
                yield from piece.storages

    def add_tensor(self, path: Path, item: Item) -> None:
        """Plan the slice of a tensor."""
        self._put(path, (item, slice_of(item.dtype, item.shape)))

    def add_value(self, path: Path, node: Any) -> None:
        """Plan what else stands somewhere, as a torch file of its own."""
        rebuilt = Rebuilt(node, self.file)
        at = ".".join(map(str, path))
        self.left_out += [f"{at}.{name}".rstrip(".") for name in rebuilt.left_out]
        self.changed |= {f"{at}.{n}".rstrip("."): what for n, what in rebuilt.changed.items()}
        if not rebuilt.left_out or rebuilt.tree != {}:
            piece = torch_file.plan(rebuilt.tree, rebuilt.storages, root="archive", record=None)
            self._put(path, piece)

    def _put(self, path: Path, piece: _Piece) -> None:
        name = ".".join(map(str, path))
        if name in self.pieces:
            raise UsageError(
                f"two places in the checkpoint have the name {name!r}",
                file=self.file,
                wanted="in such a folder each has its own",
                cure="Take one part: --part.",
            )
        if len(self.pieces) == MOST_ENTRIES:
            raise UsageError(
                "such a folder cannot hold all of this checkpoint",
                file=self.file,
                wanted=f"at most {MOST_ENTRIES:,} tensors and values",
                cure="Take one part: --part; or convert to .pt.",
            )
        self.pieces[name] = piece
        self.paths[name] = path

    def metadata(self) -> Metadata:
        """What the folder says of itself."""
        entries: dict[str, TensorEntry | None] = {}
        places: dict[Key, Place] = {}
        at = 0
        for name, piece in self.pieces.items():
            if isinstance(piece, tuple):
                item, planned = piece
                nbytes, start = planned.whole_nbytes, (0,) * len(item.shape)
                entries[name] = TensorEntry(item.dtype, item.shape, (Box(start, item.shape),))
                places[name, start] = Place(_FILE, at, nbytes)
            else:
                nbytes = piece.plan.nbytes
                entries[name] = None
                places[name, None] = Place(_FILE, at, nbytes)
            at += nbytes
        return Metadata(entries, places, self.paths, ())

    def write(self, target: FilePath, record: bytes, elements: Elements | None) -> dict[str, int]:
        """Write it, all or nothing; the bytes of each file. Without elements only say them."""
        metadata = self.metadata()
        described = write_metadata(metadata)
        nbytes = sum(place.nbytes for place in metadata.places.values())
        crcs: list[int] = []
        places = metadata.places
        sealed = partial(_sealed, record, crcs, crc32(described))
        sizes = {_FILE: nbytes, NAME: len(described), MEMBER: len(sealed(len(places)))}
        if elements is not None:
            with NewFolder(target, sum(sizes.values())) as folder:
                folder.add(_FILE, nbytes, partial(self._fill, elements, crcs))
                for name, data in ((NAME, described), (MEMBER, sealed(0))):
                    folder.put(name, data)
        return {str(target / name): size for name, size in sizes.items()}

    def _fill(self, elements: Elements, crcs: list[int], sink: Sink) -> None:
        for piece in self.pieces.values():
            whole = Checking(sink)
            if isinstance(piece, tuple):
                _fill_slice(*piece, elements, whole)
            else:
                piece.fill(elements, whole)
            crcs.append(whole.crc)


def _fill_slice(item: Item, planned: Slice, elements: Elements, sink: Sink) -> None:
    sink(planned.head)
    crc = 0
    for piece in elements.of(item):
        crc = crc32(piece, crc)
        sink(piece)
    sink(planned.tail(crc))


def _sealed(record: bytes, crcs: Sequence[int], described: int, missing: int) -> bytes:
    """The record with all checksums; of those that are not known yet, as many as are missing."""
    checksums = {NAME: joined([described])}
    if crcs or missing:
        checksums = {_FILE: joined([*crcs, *[0] * missing]), **checksums}
    return seal(record, checksums)


def whole(tree: Any, file: str) -> DcpFolder:
    """The plan of a folder that has everything of a checkpoint.

    Raises:
        UsageError: two places have one name.
    """
    folder = DcpFolder(file)
    if not isinstance(tree, Mapping):
        folder.add_value(("state",), tree)
        return folder
    for key, node in tree.items():
        _add(folder, (key,), node)
    return folder


def weights(items: Sequence[Item], file: str) -> DcpFolder:
    """The plan of a folder of weights, each under its name."""
    folder = DcpFolder(file)
    for item in items:
        folder.add_tensor((item.name,), item)
    return folder


def _add(folder: DcpFolder, path: Path, node: Any) -> None:
    if _has_slice(node):
        name = ".".join(map(str, path))
        dtype = dtype_of(node)
        assert dtype is not None
        folder.add_tensor(path, Item(name, name, node, tuple(node.shape), dtype, dtype))
    elif _is_open(node):
        named = isinstance(node, Mapping)
        for step, child in node.items() if named else enumerate(node):
            _add(folder, (*path, str(step) if named else step), child)
    else:
        folder.add_value(path, node)


def _has_slice(node: Any) -> bool:
    """Whether a node is a plain tensor, whole in memory or in pieces."""
    if isinstance(node, TensorRef):
        is_plain = node.quantizer is None and node.subclass is None and not node.is_conj
        return is_plain and node.storage is not None and not node.is_neg and node.dtype.bits >= 8
    return isinstance(node, ChunkedRef) and node.dtype.name in BY_NAME


def _is_open(node: Any) -> bool:
    """Whether a node is taken apart: what has tensors in it, and steps that a folder can name.

    Numbers as keys come back as text: torch does so with the states of optimizers, whose readers
    know it; of anything else the keys stay what they are.
    """
    if isinstance(node, Mapping):
        is_named = all(type(key) is str for key in node) or _is_states(node)
    else:
        is_named = isinstance(node, list) and any(isinstance(each, Mapping) for each in node)
    return is_named and len(node) > 0 and (_has_tensors(node) or _is_groups(node))


def _is_states(node: Mapping[Any, Any]) -> bool:
    """Whether a mapping is what an optimizer keeps of its parameters, by their numbers."""
    return all(type(key) is int and isinstance(each, Mapping) for key, each in node.items())


def _is_groups(node: Any) -> bool:
    """Whether a node is the list of an optimizer's groups, or one of them."""
    groups = node if isinstance(node, list) else [node]
    return all(isinstance(each, Mapping) and "params" in each for each in groups)


def _has_tensors(node: Any) -> bool:
    if isinstance(node, SIZED):
        return not isinstance(node, SparseRef)
    if isinstance(node, Opaque):
        return False
    return any(_has_tensors(child) for _, child in inside(node))
