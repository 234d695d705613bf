"""Plain pickles, with torch files inside them where tensors pickled themselves.

A tensor that meets the standard pickler gives its storage as ``torch.storage._load_from_bytes`` of
the bytes of a torch file (torch/storage.py, ``__reduce__``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from holdfast.errors import FormatError, NotACheckpointError
from holdfast.formats import sniff
from holdfast.formats.persistent_ids import none_here
from holdfast.io.source import Memory, Source
from holdfast.pickles.machine import Machine
from holdfast.pickles.reader import Pickled
from holdfast.pickles.sequence import WINDOW, read_next
from holdfast.pickles.table import Call, Symbol
from holdfast.spec.index import Extent, Index, StorageRef

_LOAD = ("torch.storage", "_load_from_bytes")
#: What torch.save writes; nothing else is read inside a pickle, so that nothing nests.
_INSIDE = ("torch_legacy", "torch_zip")
_JOBLIB = b"joblib.numpy_pickle"


def read_index(source: Source, *, encoding: str = "utf-8", read: Callable[..., Index]) -> Index:
    """What the first pickle of a file holds; the storages of its tensors lie in memory.

    Raises:
        NotACheckpointError: joblib wrote it.
        TruncatedError: the file ends too early.
        RefusedError: a rule for hostile files is broken.
        FormatError: it is no pickle.
    """
    inside = _Inside(source, encoding, read)
    try:
        pickled, end = read_next(
            source, 0, persistent=none_here, encoding=encoding, calls=inside.begin
        )
    except FormatError:
        if _JOBLIB in source.read_at(0, min(source.size, WINDOW)):
            raise _joblib(source) from None
        raise
    if any(symbol.startswith(_JOBLIB.decode()) for symbol in pickled.symbols):
        raise _joblib(source)
    for file in inside.files:
        source.adopt(file)
    return Index(
        file=source.name,
        format="pickle",
        tree=pickled.tree,
        extents=inside.extents,
        byteorder=inside.byteorder or "little",
        other=(Extent(source.name, source.origin, end, None, "the pickle"), *inside.other),
        file_nbytes=source.size,
        notes=_notes(pickled, source.size - end),
        symbols=tuple(dict.fromkeys((*pickled.symbols, *inside.symbols))),
    )


class _Inside:
    """The torch files inside a pickle: their storages under keys that no two of them share."""

    def __init__(self, source: Source, encoding: str, read: Callable[..., Index]) -> None:
        self._source, self._encoding, self._read = source, encoding, read
        self.begin()

    def begin(self) -> Mapping[Symbol, Call]:
        """Forget what was found; gives what the pickle may call."""
        self.files: list[Source] = []
        self.extents: dict[str, Extent] = {}
        self.other: list[Extent] = []
        self.symbols: list[str] = []
        self.byteorder: str | None = None
        self._nbytes = 0
        return {_LOAD: self._load}

    def _load(self, m: Machine, args: tuple[Any, ...]) -> StorageRef:
        """``_load_from_bytes(bytes)``: the storage in a torch file."""
        data = _bytes_of(args[0]) if len(args) == 1 else None
        if data is None:
            raise m.bad_call("torch.storage._load_from_bytes", args)
        self._nbytes += len(data)
        if self._nbytes > len(m.data):  # one file by the memo, a million times
            raise m.refused("the torch files in a pickle are no larger than the pickle")
        number = len(self.files)
        file = Memory(data, f"{self._source.name}, torch file {number}")
        if sniff.kind_of(file)[0] not in _INSIDE:
            raise m.refused("what a pickle holds inside is what torch.save writes")
        index = self._read(file, encoding=self._encoding)
        if type(index.tree) is not StorageRef:
            raise m.refused(
                "a torch file inside a pickle is one storage", found=m.shown(index.tree)
            )
        if self.byteorder not in (None, index.byteorder):
            raise m.refused("the torch files in a pickle have one byte order")
        self.files.append(file)
        self.byteorder = index.byteorder
        self.symbols += index.symbols
        return self._keep(index, index.tree, number)

    def _keep(self, index: Index, ref: StorageRef, number: int) -> StorageRef:
        place = f"torch file {number}"
        found = replace(ref, key=f"{number}/{ref.key}")
        extent = index.extents[ref.key]
        self.extents[found.key] = extent._replace(member=f"{place}, {extent.member}")
        with_crc = (extent for extent in index.other if extent.expected_crc is not None)
        self.other += [each._replace(member=f"{place}, {each.member}") for each in with_crc]
        return found


def _bytes_of(data: Any) -> bytes | bytearray | None:
    if type(data) is str:  # Python 2 text read with encoding="latin1"
        try:
            return data.encode("latin1")
        except UnicodeEncodeError:
            return None
    return data if isinstance(data, bytes | bytearray) else None


def _joblib(source: Source) -> NotACheckpointError:
    return NotACheckpointError(
        "this is a joblib file: a pickle with arrays between its parts",
        file=source.name,
        cure="If you trust whoever made it: joblib.load(path), then holdfast.save(object, path).",
    )


def _notes(pickled: Pickled, nbytes_left: int) -> tuple[str, ...]:
    notes = [f"the pickle makes an object of {name} and drops it" for name in pickled.discarded]
    if nbytes_left:
        notes.append(f"{nbytes_left:,} bytes follow the pickle, which pickle.load does not read")
    return tuple(notes)
