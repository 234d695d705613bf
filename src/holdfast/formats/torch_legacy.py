"""Legacy torch files: five pickles in a row, then raw storages (torch 0.1.10 to 1.5).

They are the magic number, 1001, a dict that describes the machine, the object, and the keys of the
storages in the order in which these follow: eight bytes for the number of elements, then the
elements. Source: torch/serialization.py (``_legacy_save``) and torch/csrc/serialization.cpp, which
writes all numbers in little-endian order on every machine, whatever ``little_endian`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.errors import FormatError, RefusedError, TruncatedError
from holdfast.formats.legacy_storages import Storages
from holdfast.formats.persistent_ids import none_here, text
from holdfast.io.source import Source
from holdfast.pickles.machine import Machine
from holdfast.pickles.reader import Pickled
from holdfast.pickles.sequence import WINDOW, read_next
from holdfast.spec.index import Extent, Index, StorageRef

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_COUNT = 8
#: The pickles before the object are a few bytes each.
_SMALL = 4096
#: The list of storages is longer, and the bytes of the storages are right behind it.
_LIST = 64 << 10


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """What a legacy file holds: its object, and where its storages lie behind the pickles.

    The format has no checksums, so that nothing tells whether the bytes are those that were saved.

    Raises:
        TruncatedError: the file ends too early.
        RefusedError: a rule for hostile files is broken.
        FormatError: it is not laid out as torch does.
    """
    pickles = _Pickles(source, encoding)
    _check_header(source, pickles)
    storages = Storages()
    pickled = pickles.next("the object", persistent=storages, window=WINDOW)
    keys = _keys(source, pickles, storages)
    extents, end = _place(source, pickles.end, [storages.roots[key] for key in keys])
    for key in storages.rebase(pickled.tree):
        view = storages.views[key]
        root = extents[view.root.key]
        start = root.offset + view.nbytes_before
        extents[key] = Extent(root.file, start, view.ref.nbytes, None, f"storage {key}")
    return Index(
        file=source.name,
        format="torch_legacy",
        tree=pickled.tree,
        extents=extents,
        other=(Extent(source.name, source.origin, pickles.end, None, "the pickles"),),
        file_nbytes=source.size,
        notes=_notes(pickled, source.size - end),
        symbols=pickled.symbols,
    )


class _Pickles:
    """The pickles at the beginning of a file, one after another; ``end`` is where the last ends."""

    def __init__(self, source: Source, encoding: str) -> None:
        self._source, self._encoding = source, encoding
        self.end = 0

    def next(
        self,
        what: str,
        *,
        persistent: Callable[[Machine, Any], Any] = none_here,
        window: int = _SMALL,
    ) -> Pickled:
        pickled, self.end = read_next(
            self._source,
            self.end,
            persistent=persistent,
            encoding=self._encoding,
            member=what,
            window=window,
        )
        return pickled


def _check_header(source: Source, pickles: _Pickles) -> None:
    for what, wanted in (("the magic number", _MAGIC), ("the version", _VERSION)):
        found = pickles.next(what).tree
        if type(found) is not int or found != wanted:
            raise FormatError(
                f"{what} of this legacy torch file is not the one it has",
                file=source.name,
                wanted=wanted,
                found=Machine.shown(found),
                cure="The file is broken: get it again, or use an earlier one.",
            )
    about = pickles.next("the description of the machine").tree
    if type(about) is not dict:
        raise FormatError(
            "this legacy torch file does not describe the machine that wrote it",
            file=source.name,
            wanted="a dict",
            found=Machine.shown(about),
            cure="The file is broken: get it again, or use an earlier one.",
        )


def _keys(source: Source, pickles: _Pickles, storages: Storages) -> list[str]:
    """The keys of the storages in the order of their bytes: each one named, and only once."""
    what = "the list of storages"
    listed = pickles.next(what, window=_LIST).tree
    keys = [text(key) for key in listed] if type(listed) is list else [None]
    if None in keys:
        raise _refused(source, what, "the list of storages is one of keys", Machine.shown(listed))
    found = {key: None for key in keys if key is not None}
    if len(found) != len(keys):
        raise _refused(source, what, "no storage is listed twice", f"{len(keys) - len(found)} are")
    unknown = [key for key in found if key not in storages.roots]
    if unknown:
        shown = Machine.shown(unknown[0])
        raise _refused(source, what, "every storage that is listed is named by the object", shown)
    absent = [key for key in storages.roots if key not in found]
    if absent:
        shown = f"{len(absent)} are not, such as {Machine.shown(absent[0])}"
        raise _refused(source, what, "every storage that the object names is listed", shown)
    return list(found)


def _place(source: Source, start: int, refs: list[StorageRef]) -> tuple[dict[str, Extent], int]:
    """Where each storage lies, and where the last one ends."""
    extents: dict[str, Extent] = {}
    for ref in refs:
        member = f"storage {ref.key}"
        _check_room(source, member, start + _COUNT)
        numel = int.from_bytes(source.read_at(start, _COUNT), "little", signed=True)
        if numel != ref.numel:
            rule = "a storage has as many elements in the object as in its bytes"
            raise _refused(source, member, rule, f"{numel:,}", wanted=f"{ref.numel:,}")
        start += _COUNT
        _check_room(source, member, start + ref.nbytes)
        extents[ref.key] = Extent(source.name, source.origin + start, ref.nbytes, None, member)
        start += ref.nbytes
    return extents, start


def _check_room(source: Source, member: str, end: int) -> None:
    if end > source.size:
        raise TruncatedError(
            "this file ends too early",
            file=source.name,
            member=member,
            wanted=f"at least {end:,} bytes",
            found=f"{source.size:,} bytes",
            cure="It was not written or copied to its end: get it again, or use an earlier one.",
        )


def _refused(
    source: Source, member: str, rule: str, found: str, *, wanted: str | None = None
) -> RefusedError:
    return RefusedError(
        f"refused: {rule}",
        file=source.name,
        member=member,
        wanted=wanted,
        found=found,
        cure="The file is broken, or made to do harm: do not load it with anything else.",
    )


def _notes(pickled: Pickled, nbytes_left: int) -> tuple[str, ...]:
    notes = [f"the pickle makes an object of {name} and drops it" for name in pickled.discarded]
    if nbytes_left:
        notes.append(f"{nbytes_left:,} bytes follow the last storage, which torch does not read")
    return tuple(notes)
