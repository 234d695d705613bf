"""Read the headers of a torch zip file: its pickle and where its storages lie, no tensor."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.errors import DamagedError, FormatError, RefusedError
from holdfast.formats.torch_zip.storages import Storages
from holdfast.formats.zip_archive import LARGEST_PICKLE, Member, read_member, read_members
from holdfast.io.checksum import crc32
from holdfast.io.source import Source
from holdfast.pickles.reader import Pickled, read
from holdfast.spec import record as records
from holdfast.spec.index import Extent, Index

PICKLE = "data.pkl"
_OLDEST, _NEWEST = 1, 10


def read_index(
    source: Source,
    *,
    encoding: str = "utf-8",
    members: Mapping[str, Member] | None = None,
) -> Index:
    """What a torch zip file holds, from its headers; ``members`` when they are read already.

    Raises:
        TruncatedError: the file ends too early.
        DamagedError: the pickle's bytes are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: the archive is not laid out as torch does.
    """
    members = read_members(source) if members is None else members
    root = root_of(source, members)
    _check_version(source, members, root)
    has_crcs = any(member.crc for member in members.values())
    pickled, storages = _read_pickle(source, members, root, encoding, has_crcs=has_crcs)
    extents = {
        key: _extent(source, members[storages.member_of(key)], has_crcs) for key in storages.named
    }
    used = {extent.member for extent in extents.values()}
    record, notes = _read_record(source, members, root, has_crcs=has_crcs)
    return Index(
        file=source.name,
        format="torch_zip",
        tree=pickled.tree,
        extents=extents,
        record=record,
        byteorder=_byteorder(source, members, root),
        other=tuple(_extent(source, m, has_crcs) for m in members.values() if m.name not in used),
        file_nbytes=source.size,
        notes=(*notes, *_notes(pickled, members, used, root)),
        symbols=pickled.symbols,
    )


def root_of(source: Source, members: Mapping[str, Member]) -> str:
    """The folder that all members lie in: that of the first one.

    Raises:
        RefusedError: a member lies outside it.
    """
    root = next(iter(members), "").partition("/")[0]
    for name in members:
        if not name.startswith(f"{root}/"):
            raise RefusedError(
                "refused: all members of a checkpoint lie in one folder",
                file=source.name,
                member=name,
                wanted=f"{root}/…",
                cure="The archive is broken, or made so that two programs see two different "
                "files in it.",
            )
    return root


def _read_pickle(
    source: Source, members: Mapping[str, Member], root: str, encoding: str, *, has_crcs: bool
) -> tuple[Pickled, Storages]:
    member = members[f"{root}/{PICKLE}"]
    data = read_member(source, member, most=LARGEST_PICKLE)
    found = crc32(data)
    if has_crcs and found != member.crc:
        raise DamagedError(
            "the pickle that says what the file holds is damaged",
            file=source.name,
            member=member.name,
            wanted=f"CRC {member.crc:08x}",
            found=f"{found:08x}",
            cure="Nothing in this file can be trusted: use an earlier checkpoint.",
        )
    storages = Storages(members, root)
    pickled = read(
        data, persistent=storages, encoding=encoding, file=source.name, member=member.name
    )
    return pickled, storages


def _check_version(source: Source, members: Mapping[str, Member], root: str) -> None:
    names = (f"{root}/version", f"{root}/.data/version")
    member = next((members[name] for name in names if name in members), None)
    if member is None:
        raise FormatError(
            "this archive does not say which version it is",
            file=source.name,
            wanted=f"a member {names[0]!r}",
            cure="It was not written by torch.save, or was repacked without it.",
        )
    text = read_member(source, member)[:20].strip()
    if not text.isdigit() or not _OLDEST <= int(text) <= _NEWEST:
        raise FormatError(
            "this archive has a version that holdfast does not know",
            file=source.name,
            member=member.name,
            wanted=f"{_OLDEST} to {_NEWEST}",
            found=ascii(text.decode("ascii", "replace")),
            cure="A newer holdfast may read it.",
        )


def _byteorder(source: Source, members: Mapping[str, Member], root: str) -> str:
    member = members.get(f"{root}/byteorder")
    if member is None:
        return "little"  # files from before torch 2.1
    order = read_member(source, member)[:20]
    if order not in (b"little", b"big"):
        raise FormatError(
            "this archive does not say in which order its bytes are",
            file=source.name,
            member=member.name,
            wanted="little or big",
            found=ascii(order.decode("ascii", "replace")),
        )
    return order.decode()


def _read_record(
    source: Source, members: Mapping[str, Member], root: str, *, has_crcs: bool
) -> tuple[records.Record | None, tuple[str, ...]]:
    """The record; one that is damaged is a note, as tensors can be whole without it."""
    member = members.get(f"{root}/{records.MEMBER}")
    if member is None:
        return None, ()
    data = read_member(source, member)
    if has_crcs and crc32(data) != member.crc:
        return None, (f"the record {member.name} is damaged",)
    try:
        return records.decode(data, file=source.name), ()
    except FormatError as error:
        return None, (f"{error.what}: {error.found}",)


def _extent(source: Source, member: Member, has_crcs: bool) -> Extent:
    # Torch can be told not to compute CRCs; it then writes 0 everywhere.
    crc = member.crc if has_crcs and member.is_stored else None
    return Extent(source.name, source.origin + member.offset, member.nbytes, crc, member.name)


def _notes(
    pickled: Pickled, members: Mapping[str, Member], used: set[str], root: str
) -> tuple[str, ...]:
    unnamed = [n for n in members if n.startswith(f"{root}/data/") and n not in used]
    notes = [f"the pickle makes an object of {name} and drops it" for name in pickled.discarded]
    if unnamed:
        notes.append(f"no tensor uses {len(unnamed)} of the storages, such as {unnamed[0]}")
    return tuple(notes)
