"""Programs of torch.export (.pt2): their weights and constants; the rest is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.errors import FormatError
from holdfast.formats import exported_graph, strict_json
from holdfast.formats.exported_payload import Payloads
from holdfast.formats.program_facts import Found, facts
from holdfast.formats.torch_zip.archive import Archive, archive_of
from holdfast.formats.torchscript import extra_files, texts
from holdfast.formats.zip_archive import Member, read_members
from holdfast.io.source import Source
from holdfast.spec.index import Extent, Index
from holdfast.spec.program import EXTRA_FILE

#: The member by which the files of torch before 2.8 are known: a zip archive without a root.
OLDER = "serialized_exported_program.json"
_OLDER_PARTS = ("serialized_state_dict.pt", "serialized_constants.pt")

_FOLDERS = (("data/weights", "_weights_config.json"), ("data/constants", "_constants_config.json"))
_LONGEST_GRAPH = 64 << 20
_PROGRAMS = ("models", "data/aotinductor", "data/executorch", "data/mtia")


def read_index(
    source: Source,
    *,
    encoding: str = "utf-8",
    members: Mapping[str, Member] | None = None,
) -> Index:
    """The weights and constants of a program by their names, of several by program and name.

    Raises:
        TruncatedError: the file ends too early.
        DamagedError: a pickle's bytes are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: the archive is not laid out as torch does.
    """
    members = read_members(source) if members is None else members
    if OLDER in members:
        return _read_older(source, encoding, members)
    archive = archive_of(source, members)
    archive.check_version()
    payloads = Payloads(archive, encoding)
    programs = {name: _one(archive, payloads, name) for name in _names(archive)}
    for member in archive.below("data/sample_inputs"):
        payloads.look_into(member)
    graph = archive.find(f"models/{next(iter(programs))}.json") if len(programs) == 1 else None
    extra = extra_files(archive, "extra")
    program = facts(_found(archive, graph), extra, EXTRA_FILE, source.name)
    return Index(
        file=source.name,
        format="exported",
        tree=next(iter(programs.values())) if len(programs) == 1 else programs,
        extents=payloads.extents,
        byteorder=archive.byteorder(),
        other=(*payloads.other, *_rest(archive, payloads)),
        file_nbytes=source.size,
        notes=("a program: its graph is not run", *payloads.notes(), *program.notes),
        symbols=tuple(payloads.symbols),
        metadata=program.metadata,
        programs=tuple(archive.short(m) for folder in _PROGRAMS for m in archive.below(folder)),
        program=program.program,
    )


def _found(archive: Archive, member: Member | None) -> Found:
    """What the graph says of the one program in an archive; nothing of several."""
    if member is None:
        return Found()
    nbytes = member.nbytes if member.is_stored else member.unpacked_nbytes
    what = "the graph of this program"
    if nbytes > _LONGEST_GRAPH:
        return Found(notes=("its graph is too long: what it calls is not counted",))
    try:
        data = archive.data(member, what=what, most=_LONGEST_GRAPH)
        graph = strict_json.decode(data, what=what, file=archive.source.name, takes_nan=True)
        inputs, outputs, operators = exported_graph.calls_of(graph)
    except FormatError as error:  # its weights may be whole all the same; verify says more
        return Found(notes=(f"its graph is not read: {error.what}",))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return Found(notes=(f"its graph is laid out in a way that is not known ({error!r:.100})",))
    return Found(inputs, outputs, operators)


def _names(archive: Archive) -> list[str]:
    """The programs in an archive, in order: those with a graph or with weights."""
    found: dict[str, None] = {}
    for folder, ending in (("models", ".json"), *_FOLDERS):
        for member in archive.below(folder):
            name = archive.short(member).removeprefix(f"{folder}/")
            if name.endswith(ending):
                found[name.removesuffix(ending)] = None
    return list(found)


def _one(archive: Archive, payloads: Payloads, name: str) -> dict[str, Any]:
    """Weights and constants of one program; torch before 2.9 has them as one torch file each."""
    tree: dict[str, Any] = {}
    for folder, ending in _FOLDERS:
        config = archive.find(f"{folder}/{name}{ending}")
        whole = archive.find(f"{folder}/{name}.pt")
        found: Any = {}
        if config is not None:
            found = payloads.read(config, folder)
        elif whole is not None:
            found = payloads.torch_file(whole)
        if not isinstance(found, dict) or found.keys() & tree.keys():
            raise FormatError(
                "the weights and constants of a program have names, each its own",
                file=archive.source.name,
                member=f"{archive.root}/{folder}/{name}",
                cure="The file is broken: get it again, or export the program anew.",
            )
        tree.update(found)
    return tree


def _rest(archive: Archive, payloads: Payloads) -> list[Extent]:
    return [archive.extent(m) for m in archive.members.values() if m.name not in payloads.used]


def _read_older(source: Source, encoding: str, members: Mapping[str, Member]) -> Index:
    """What torch.export.save wrote before torch 2.8: torch files beside the graph, in a zip."""
    tree: dict[str, Any] = {}
    archive = Archive(source, members, "", any(member.crc for member in members.values()))
    payloads = Payloads(archive, encoding)
    for name in _OLDER_PARTS:
        if name in members:
            found = payloads.torch_file(members[name])
            tree.update(found if isinstance(found, dict) else {})
    for name, member in members.items():
        if name == "serialized_example_inputs.pt":
            payloads.look_into(member)
    folder = "extra_files/"
    extra = {name[len(folder) :]: m for name, m in members.items() if name.startswith(folder)}
    program = facts(_found(archive, members[OLDER]), texts(archive, extra), EXTRA_FILE, source.name)
    return Index(
        file=source.name,
        format="exported",
        tree=tree,
        extents=payloads.extents,
        other=(*payloads.other, *_rest(archive, payloads)),
        file_nbytes=source.size,
        notes=("a program, as torch before 2.8 saved it: its graph is not run", *program.notes),
        symbols=tuple(payloads.symbols),
        metadata=program.metadata,
        programs=(OLDER,),
        program=program.program,
    )
