"""TorchScript programs: their tensors and attributes; their code is text, and never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.errors import DamagedError, FormatError
from holdfast.formats import script_code
from holdfast.formats.program_facts import Found, facts
from holdfast.formats.torch_zip.archive import Archive, archive_of
from holdfast.formats.zip_archive import Member
from holdfast.io.source import Source
from holdfast.pickles import jit
from holdfast.pickles.reader import Pickled
from holdfast.spec.index import Extent, Index, Opaque
from holdfast.spec.program import EXTRA_FILE

PICKLE, CONSTANTS = "data.pkl", "constants.pkl"
#: Extra files are text for people; what is longer is data, and only named.
_LONGEST_TEXT = 1 << 20
_MOST_TEXT = 16 << 20
#: Members that say what to run, beside all of ``code/``.
_PROGRAMS = ("bytecode.pkl", "mobile_debug_handles.pkl")


def read_index(
    source: Source,
    *,
    encoding: str = "utf-8",
    members: Mapping[str, Member] | None = None,
) -> Index:
    """The attributes of a program's modules as nested dicts, its parameters and buffers among them.

    A tensor's dotted name is the one it has in the program's state dict. The constants of its code
    are the list ``constants``, if it has any.

    Raises:
        TruncatedError: the file ends too early.
        DamagedError: a pickle's bytes are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: the archive is not laid out as torch does.
    """
    archive = archive_of(source, members)
    archive.check_version()
    data, storages = archive.pickle(PICKLE, encoding=encoding, calls=jit.CALLS)
    constants, more = archive.pickle(
        CONSTANTS, encoding=encoding, folder="constants", calls=jit.CALLS
    )
    extents = {**archive.extents(storages), **archive.extents(more)}
    tree = _tree(archive, data, constants)
    extra = extra_files(archive, "extra")
    program = facts(_found(archive, data.tree.symbol), extra, EXTRA_FILE, source.name)
    return Index(
        file=source.name,
        format="torchscript",
        tree=tree,
        extents=extents,
        byteorder=archive.byteorder(),
        other=archive.others(extents),
        file_nbytes=source.size,
        notes=(*_notes(archive, data, extents), *program.notes),
        symbols=tuple(dict.fromkeys(_foreign(data) + _foreign(constants))),
        metadata=program.metadata,
        programs=tuple(_programs(archive)),
        program=program.program,
    )


def _tree(archive: Archive, data: Pickled, constants: Pickled) -> Any:
    if type(data.tree) is not Opaque or not isinstance(constants.tree, tuple):
        raise FormatError(
            "this TorchScript program holds no module",
            file=archive.source.name,
            member=f"{archive.root}/{PICKLE}",
            cure="The file is broken: get it again, or use an earlier one.",
        )
    unfold = jit.Unfolder(archive.source.name, f"{archive.root}/{PICKLE}")
    tree = unfold(data.tree)
    if constants.tree and isinstance(tree, dict):
        unfold = jit.Unfolder(archive.source.name, f"{archive.root}/{CONSTANTS}")
        name = "constants"
        while name in tree:  # an attribute of the module is called that
            name += "_"
        tree[name] = unfold(list(constants.tree))
    return tree


def _found(archive: Archive, symbol: str) -> Found:
    """What the code calls, and what ``forward`` takes, as the text of it says."""
    codes: dict[str, str] = {}
    left, notes = script_code.MOST_CODE, []
    for member in archive.below("code"):
        nbytes = member.nbytes if member.is_stored else member.unpacked_nbytes
        name = archive.short(member)
        if not name.endswith(".py"):
            continue
        if nbytes > left:
            notes.append(f"{name} is too long: what it calls is not counted")
            continue
        left -= nbytes
        try:
            data = archive.data(member, what="the code of this program")
        except FormatError as error:  # its tensors may be whole all the same; verify says more
            notes.append(f"{name} is not counted: {error.what}")
        else:
            codes[name] = data.decode("utf-8", "replace")
    return Found(
        inputs=script_code.ports(codes.get(script_code.member_of(symbol), ""), symbol),
        operators=script_code.count(codes.values()),
        notes=tuple(notes[:1]),
    )


def _foreign(pickled: Pickled) -> list[str]:
    """Symbols outside the table; classes of the program itself are code in the file, no import."""
    return [name for name in pickled.symbols if not name.startswith(jit.OWN_CLASSES)]


def _programs(archive: Archive) -> list[str]:
    code = [archive.short(member) for member in archive.below("code")]
    return code + [name for name in _PROGRAMS if archive.find(name) is not None]


def _notes(archive: Archive, data: Pickled, extents: Mapping[str, Extent]) -> tuple[str, ...]:
    notes = [f"a program of class {data.tree.symbol}: its code is not run"]
    if extents and all(key.startswith("constants/") for key in extents):
        notes.append(
            "its tensors are constants of its code and bear no names, as those of a frozen program"
        )
    used = {extent.member for extent in extents.values()}
    unused = [
        member.name
        for folder in ("data", "constants")
        for member in archive.below(folder)
        if member.name not in used
    ]
    if unused:
        notes.append(f"no tensor uses {len(unused)} of the storages, such as {unused[0]}")
    return tuple(notes)


def extra_files(archive: Archive, folder: str) -> dict[str, str]:
    """The text of the extra files of a program; what is no text, or long, is named by its size."""
    return texts(archive, {archive.short(m).partition("/")[2]: m for m in archive.below(folder)})


def texts(archive: Archive, members: Mapping[str, Member]) -> dict[str, str]:
    """The text of members by name; what is no text, or long, or damaged, is named by its size."""
    found, left = {}, _MOST_TEXT
    for name, member in members.items():
        nbytes = member.nbytes if member.is_stored else member.unpacked_nbytes
        text = None
        if nbytes <= min(_LONGEST_TEXT, left):
            left -= nbytes
            text = _text(archive, member)
        found[name] = f"({nbytes:,} bytes)" if text is None else text
    return found


def _text(archive: Archive, member: Member) -> str | None:
    try:
        return archive.data(member, what="this text").decode()
    except UnicodeDecodeError:
        return None
    except DamagedError:
        return f"({member.nbytes:,} bytes, damaged)"
