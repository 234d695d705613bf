"""Look through zip archives, also those that two programs would read differently."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.errors import FormatError, TruncatedError
from holdfast.formats.zip_archive import Member, read_members
from holdfast.io.source import Source
from holdfast.report.findings import TOO_MANY, is_code
from holdfast.report.unpack import RAW

if TYPE_CHECKING:
    from holdfast.report.crawl import Crawler
    from holdfast.report.site import Site

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_HEADER, _END = b"PK\x03\x04", b"PK\x05\x06"
_END_SIZE = 22
#: What an archive begins with; one without members is its end record alone.
BEGINNINGS = (_HEADER, _END)
#: How far from the end its record may lie; miniz goes back by blocks of 4 KiB, and so farther.
_TAIL = _END_SIZE + 0xFFFF + (8 << 10)
_WINDOW = 4 << 20
#: Signatures in a file that is no plain archive; more of them are no accident.
_MOST_HEADERS = 10_000
_STORED, _DEFLATED = 0, 8
_HAS_DESCRIPTOR = 0x0008
#: Methods of the standard; other numbers behind a signature mean that it stands there by chance.
_METHODS = frozenset({1, 2, 3, 4, 5, 6, 9, 10, 12, 14, 16, 18, 19, 20, 93, 94, 95, 96, 97, 98, 99})


def is_zip(source: Source, head: bytes, *, is_whole_file: bool) -> bool:
    """Whether some program would take these bytes for an archive; of a whole file, by its end."""
    if head.startswith(BEGINNINGS):
        return True
    if not is_whole_file:
        return False
    nbytes = min(source.size, _TAIL)
    return _END in source.read_at(source.size - nbytes, nbytes)


def look(crawler: Crawler, site: Site, *, is_sure: bool) -> int | None:
    """Look through every member, and through what lies between them.

    ``is_sure`` says that an archive begins here; else only its end was seen, and all that can be a
    member is looked at. Where a broken archive ends is given.
    """
    try:
        members = read_members(site.source)
    except FormatError as error:
        if is_sure:
            is_short = isinstance(error, TruncatedError)
            two = f"two programs may see two different files in it ({error.what})"
            crawler.found.problem(site, error.what if is_short else two)
        look_leniently(crawler, site)
        return (_end(site.source) or None) if is_sure else None
    _note_programs(crawler, site, members)
    for member in members.values():
        window = site.source.window(member.offset, member.nbytes)
        inner = site.inside(window, member.name, is_unpacked=not member.is_stored)
        if member.is_stored:
            crawler.look(inner)
        else:
            crawler.look_unpacked(inner, RAW)
    _look_between(crawler, site, members.values())
    return None


def _end(source: Source) -> int:
    """Where the last end record of an archive ends, its comment left aside; 0 without one."""
    start = source.size - min(source.size, _TAIL)
    at = source.read_at(start, source.size - start).rfind(_END)
    return 0 if at < 0 else min(source.size, start + at + _END_SIZE)


#: What is in every TorchScript archive, and in those of torch 1.0.
_SCRIPTS = frozenset({"constants.pkl", "model.json"})
#: What torch.export has called its program, from one version to the next.
_EXPORTED = frozenset(
    {"archive_format", "models/model.json", "serialized_exported_program.json", "archive_version"}
)


def _note_programs(crawler: Crawler, site: Site, names: Iterable[str]) -> None:
    """TorchScript and torch.export archives hold code, which their names show.

    Case makes no difference to the reader of torch (miniz: ``mz_zip_reader_locate_file``).
    """
    inner = {name: name.partition("/")[2].lower() for name in names}
    kinds = {*inner.values(), *(name.lower() for name in inner)}
    is_script = bool(kinds & _SCRIPTS) or any(name.startswith("code/") for name in kinds)
    is_exported = bool(kinds & _EXPORTED)
    prefix = f"{site.member} > " if site.member else ""
    before = len(crawler.found.programs)
    for full, name in inner.items():
        is_script_code = is_script and name.startswith("code/") and not name.endswith(".debug_pkl")
        is_graph = is_exported and name.startswith("models/")
        if is_script_code or is_graph or name.startswith("data/aotinductor/") or is_code(name):
            crawler.found.program(prefix + full)
    if (is_script or is_exported) and len(crawler.found.programs) == before:
        crawler.found.program(prefix + next(iter(inner)))


def _look_between(crawler: Crawler, site: Site, members: Iterable[Member]) -> None:
    """Where members lie side by side, nothing but their headers and descriptors is between."""
    source, end = site.source, 0
    for member in sorted(members, key=lambda member: member.offset):
        for at in _headers(source, end, member.offset):
            if _data_offset(source, at) != member.offset:
                _hidden(crawler, site, at)
        end = max(end, member.offset + member.nbytes)
    for at in _headers(source, end, source.size):
        _hidden(crawler, site, at)


def _hidden(crawler: Crawler, site: Site, at: int) -> None:
    if not _is_folder(site.source, at) and _look_at_header(crawler, site, at):
        crawler.found.problem(
            site, f"a member at byte {at:,} is in no directory: other programs see it"
        )


def _is_folder(source: Source, at: int) -> bool:
    """Whether a local header is that of a folder, which has no bytes."""
    if at + _LOCAL.size > source.size:
        return False
    _, _, flags, method, *_, packed, unpacked, _, _ = _LOCAL.unpack(source.read_at(at, _LOCAL.size))
    has_bytes = flags & _HAS_DESCRIPTOR or method or packed or unpacked
    return not has_bytes and _name_at(source, at, _LOCAL.size, 26).endswith("/")


def look_leniently(crawler: Crawler, site: Site) -> None:
    """Every local header that stands anywhere, whatever the directory says of it."""
    source, names = site.source, []
    for count, at in enumerate(_headers(source, 0, source.size)):
        if count >= _MOST_HEADERS:
            crawler.found.problem(site, TOO_MANY)
            break
        names.append(_name_at(source, at, _LOCAL.size, 26))
        _look_at_header(crawler, site, at)
    names += _central_names(crawler, site)
    _note_programs(crawler, site, names)


def _look_at_header(crawler: Crawler, site: Site, at: int) -> bool:
    """Whether something that can be a member stands there; it is looked at both ways."""
    source = site.source
    start = _data_offset(source, at)
    if start is None:
        return False
    method = struct.unpack("<H", source.read_at(at + 8, 2))[0]
    name = _name_at(source, at, _LOCAL.size, 26)
    window = source.window(start, source.size - start)
    inner = site.inside(window, name)
    if method in _METHODS:
        crawler.found.problem(inner, "it is packed in a way that cannot be looked through")
        return True
    if not _is_nested(window):  # a nested archive's headers stand in this one, and are met as well
        crawler.look(inner if method == _STORED else replace(inner, name=""))
    is_packed = method == _DEFLATED
    crawler.look_unpacked(replace(inner, is_unpacked=True, name=name if is_packed else ""), RAW)
    return method in (_STORED, _DEFLATED)


def _is_nested(source: Source) -> bool:
    return source.read_at(0, min(source.size, 4)) in BEGINNINGS


def _headers(source: Source, start: int, stop: int) -> Iterator[int]:
    """The positions of all local headers' signatures between two positions."""
    stop = min(stop, source.size)
    for base in range(start, stop, _WINDOW):
        data = source.read_at(base, min(_WINDOW + len(_HEADER) - 1, stop - base))
        at = data.find(_HEADER)
        while at >= 0:
            yield base + at
            at = data.find(_HEADER, at + 1)


def _data_offset(source: Source, at: int) -> int | None:
    """Where the data of the local header at a position starts; None where the file ends first."""
    if at + _LOCAL.size > source.size:
        return None
    name_size, extra_size = struct.unpack("<HH", source.read_at(at + 26, 4))
    start = at + _LOCAL.size + int(name_size) + int(extra_size)
    return start if start <= source.size else None


def _name_at(source: Source, at: int, header: int, field: int) -> str:
    """The name in a header, as far as the file goes."""
    if at + header > source.size:
        return ""
    size = int(struct.unpack("<H", source.read_at(at + field, 2))[0])
    name = source.read_at(at + header, min(size, 1000, source.size - at - header))
    return name.decode("utf-8", "replace")


def _central_names(crawler: Crawler, site: Site) -> list[str]:
    """The names that the central directory gives, wherever its entries lie near the end."""
    source = site.source
    start = max(0, source.size - _WINDOW)
    data = source.read_at(start, source.size - start)
    names: list[str] = []
    at = data.find(b"PK\x01\x02")
    while at >= 0 and len(names) < _MOST_HEADERS:
        # Which of two headers says how a member is packed is up to the reader.
        if int.from_bytes(data[at + 10 : at + 12], "little") in _METHODS:
            crawler.found.problem(site, "a member is packed in a way that cannot be looked through")
        names.append(_name_at(source, start + at, _CENTRAL.size, 28))
        at = data.find(b"PK\x01\x02", at + 1)
    return names
