"""The oldest torch files: a tar of storages, tensors and a pickle (before 0.1.10).

Source: torch/serialization.py (``legacy_load``), which still reads them.
"""

from __future__ import annotations

from itertools import islice

from holdfast.errors import HoldfastError, NotACheckpointError, RefusedError
from holdfast.formats import sniff
from holdfast.formats.tar_archive import Member, members_of
from holdfast.formats.tar_tensors import Tensors, read_storages, read_tensors
from holdfast.io.source import Source
from holdfast.pickles.sequence import read_next
from holdfast.spec.index import Extent, Index

_NAMES = ("storages", "tensors", "pickle")
#: Members looked at: the three are all that torch wrote, three headers before each at most.
_MOST_MEMBERS = 10_000
#: Members of another archive that are looked into, and named in its letter.
_LOOKED_INTO, _NAMED = 100, 5


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """What a tar of torch holds: its object, and where its storages lie in the archive.

    The format has no checksums, so that nothing tells whether the bytes are those that were saved.

    Raises:
        NotACheckpointError: an archive of something else; checkpoints in it are named.
        TruncatedError: the file ends too early.
        RefusedError: a rule for hostile files is broken.
        FormatError: it is not laid out as torch does.
    """
    members = _members(source)
    tensors = Tensors()
    read_storages(_part(source, members["storages"]), tensors, encoding)
    read_tensors(_part(source, members["tensors"]), tensors, encoding)
    pickled, end = read_next(
        _part(source, members["pickle"]),
        0,
        persistent=tensors,
        encoding=encoding,
        member="pickle",
    )
    notes = [f"the pickle makes an object of {name} and drops it" for name in pickled.discarded]
    if end != members["pickle"].nbytes:
        notes.append(f"{members['pickle'].nbytes - end:,} bytes follow the pickle")
    return Index(
        file=source.name,
        format="torch_tar",
        tree=pickled.tree,
        extents=tensors.extents,
        other=tuple(
            Extent(source.name, source.origin + member.offset, member.nbytes, None, member.name)
            for member in (members["tensors"], members["pickle"])
        ),
        file_nbytes=source.size,
        notes=tuple(notes),
        symbols=tuple(dict.fromkeys((*tensors.symbols, *pickled.symbols))),
    )


def _part(source: Source, member: Member) -> Source:
    return source.window(member.offset, member.nbytes)


def _members(source: Source) -> dict[str, Member]:
    """The three members, each there once and a regular file."""
    found: dict[str, Member] = {}
    for member in islice(members_of(source), _MOST_MEMBERS):
        if member.name not in _NAMES:
            continue
        if member.name in found:
            raise _refused(source, member, "no two members have the same name")
        if not member.is_regular:
            raise _refused(source, member, "the members of a checkpoint are plain files")
        found[member.name] = member
    if len(found) < len(_NAMES):
        raise _letter(source)
    return found


def _letter(source: Source) -> NotACheckpointError:
    """What to do with an archive of something else; checkpoints in it are named."""
    inside = [
        f"{member.name} ({kind})"
        for member in islice(members_of(source), _LOOKED_INTO)
        if (kind := _kind(source, member)) is not None
    ]
    cure = "Unpack it first: tar -xf FILE"
    if not inside:
        return NotACheckpointError("this is a tar archive", file=source.name, cure=cure)
    more = f", and {len(inside) - _NAMED} more" if len(inside) > _NAMED else ""
    return NotACheckpointError(
        "this is a tar archive with checkpoints in it",
        file=source.name,
        found=ascii(", ".join(inside[:_NAMED]))[1:-1][:500] + more,
        cure=cure,
    )


def _kind(source: Source, member: Member) -> str | None:
    """The format of a member that may be a checkpoint; None of what is none."""
    if not member.is_regular:
        return None
    try:
        return sniff.kind_of(_part(source, member))[0]
    except HoldfastError:
        return None


def _refused(source: Source, member: Member, rule: str) -> RefusedError:
    return RefusedError(
        f"refused: {rule}",
        file=source.name,
        member=member.name,
        cure="The archive is broken, or made so that two programs see two different files in it.",
    )
