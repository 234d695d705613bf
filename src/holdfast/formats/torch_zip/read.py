"""Read the headers of a torch zip file: its pickle and where its storages lie, no tensor."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.errors import FormatError
from holdfast.formats.torch_zip.archive import Archive, archive_of, root_of
from holdfast.formats.zip_archive import Member
from holdfast.io.checksum import crc32
from holdfast.io.source import Source
from holdfast.pickles.reader import Pickled
from holdfast.pickles.table import Call, Symbol
from holdfast.spec import record as records
from holdfast.spec.index import Extent, Index

__all__ = ["PICKLE", "read_index", "root_of"]

PICKLE = "data.pkl"


def read_index(
    source: Source,
    *,
    encoding: str = "utf-8",
    members: Mapping[str, Member] | None = None,
    within: str = "",
    calls: Mapping[Symbol, Call] | None = None,
) -> Index:
    """What a torch zip file holds, from its headers; ``members`` when they are read already.

    Of a file inside another checkpoint, ``within`` begins the storages' keys and members' names,
    and ``calls`` are what its pickle may call beside the closed table.

    Raises:
        TruncatedError: the file ends too early.
        DamagedError: the pickle's bytes are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: the archive is not laid out as torch does.
    """
    archive = archive_of(source, members, within)
    archive.check_version()
    pickled, storages = archive.pickle(PICKLE, encoding=encoding, calls=calls)
    extents = archive.extents(storages)
    record, notes = _read_record(archive)
    return Index(
        file=source.name,
        format="torch_zip",
        tree=pickled.tree,
        extents=extents,
        record=record,
        byteorder=archive.byteorder(),
        other=archive.others(extents),
        file_nbytes=source.size,
        notes=(*notes, *_notes(pickled, archive, extents)),
        symbols=pickled.symbols,
    )


def _read_record(archive: Archive) -> tuple[records.Record | None, tuple[str, ...]]:
    """The record; one that is damaged is a note, as tensors can be whole without it."""
    member = archive.find(records.MEMBER)
    if member is None:
        return None, ()
    data = archive.data(member)
    if archive.has_crcs and crc32(data) != member.crc:
        return None, (f"the record {member.name} is damaged",)
    try:
        return records.decode(data, file=archive.source.name), ()
    except FormatError as error:
        return None, (f"{error.what}: {error.found}",)


def _notes(pickled: Pickled, archive: Archive, extents: Mapping[str, Extent]) -> tuple[str, ...]:
    used = {extent.member for extent in extents.values()}
    names = [archive.within + member.name for member in archive.below("data")]
    unnamed = [name for name in names if name not in used]
    notes = [f"the pickle makes an object of {name} and drops it" for name in pickled.discarded]
    if unnamed:
        notes.append(f"no tensor uses {len(unnamed)} of the storages, such as {unnamed[0]}")
    return tuple(notes)
