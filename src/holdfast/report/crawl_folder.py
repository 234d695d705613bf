"""Look through a checkpoint folder: every file that lies in it."""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError
from holdfast.formats.dcp.metadata import read_metadata
from holdfast.formats.sharded import is_listing, read_listing
from holdfast.io.source import Folder, Source, open_source
from holdfast.report import crawl_tar, crawl_zip
from holdfast.report.findings import is_code
from holdfast.report.site import Site
from holdfast.report.unpack import is_packed, packing_of

if TYPE_CHECKING:
    from holdfast.report.crawl import Crawler

_MOST_FILES = 100_000
_DEEPEST = 20
_METADATA = ".metadata"


def look(crawler: Crawler, folder: Folder) -> None:
    """Look through every file of a folder, also those that nothing in it names."""
    described = _Described(crawler, folder.name)
    for count, path in enumerate(_files(crawler, folder, folder.name, 0)):
        site = Site(folder, path)
        if count >= _MOST_FILES:
            crawler.found.problem(site, f"only the first {_MOST_FILES:,} files were looked through")
            return
        if is_code(path):
            crawler.found.program(path)
        try:
            with open_source(path) as source:
                if source.is_folder:
                    crawler.found.problem(
                        site, "a link to a folder is not followed: scan that as well"
                    )
                    continue
                crawler.allow(source.size)
                described.by(os.path.dirname(path))  # noqa: PTH120
                _look_at(crawler, source, path, described)
        except HoldfastError as error:
            crawler.found.problem(site, error.what)


def look_at_listed(crawler: Crawler, source: Source) -> None:
    """Look through the files that a listing of shards names: whoever loads it loads them."""
    for shard in _listed(crawler, source):
        crawler.allow(shard.size)
        crawler.look(Site(shard, shard.name, is_whole=True))


def _listed(crawler: Crawler, source: Source) -> Iterator[Source]:
    """The files that a listing names; what is not there, or leads out, is a problem."""
    home = os.path.dirname(source.path or source.name)  # noqa: PTH120
    with Folder(home or ".") as folder:
        for name in dict.fromkeys(read_listing(source).files.values()):
            if (shard := _opened(crawler, folder, Site(source, source.name), name)) is not None:
                yield shard


def _opened(crawler: Crawler, folder: Folder, site: Site, name: str) -> Source | None:
    """A file of a folder; None, and a problem, where there is none of that name in it."""
    try:
        return folder.open(name)
    except HoldfastError as error:
        crawler.found.problem(site, f"{error.what} ({name[:200]})")
        return None


def _look_at(crawler: Crawler, source: Source, path: str, described: _Described) -> None:
    site = Site(source, path, is_whole=True)
    head = source.read_at(0, min(source.size, 512))
    is_slices = path.endswith(".distcp")
    if not is_slices or is_packed(head) or crawl_tar.is_tar(head):
        crawler.look(site)
    if is_listing(source):
        list(_listed(crawler, source))  # those in the folder are looked through in their turn
    known = described.slices.get(path, {})
    places = [*known]
    if is_slices:
        if (packing := packing_of(head, is_whole=True)) is not None:
            crawler.found.packed(site, packing)
        # Archives and pickles stand behind each other in it; the metadata says where they start.
        crawl_zip.look_leniently(crawler, site)
        starts = described.starts.get(os.path.dirname(path), []) or [0]  # noqa: PTH120
        places += [(start, source.size - start) for start in starts]
    for start, nbytes in dict.fromkeys(places):
        beginning = source.read_at(start, 2) if start + 2 <= source.size else b""
        if start < source.size and not (is_slices and beginning == b"PK"):
            window = source.window(start, min(nbytes, source.size - start))
            is_known = (start, nbytes) in known
            inner = site.inside(window, f"bytes at {start:,}", is_whole=is_known)
            if is_known:
                crawler.look(inner)
            else:
                crawler.look_for_pickles(inner, is_pickle=False)


class _Described:
    """What the metadata in a folder and below it says of where slices lie.

    It is read by a reader that takes records of numbers and text as torch writes them, and nothing
    that counts, calls or computes; where that refuses, torch may see another thing.
    """

    def __init__(self, crawler: Crawler, folder: str) -> None:
        self._crawler = crawler
        self._met: set[str] = set()
        #: By file: the offset and the bytes of each slice, in order.
        self.slices: dict[str, dict[tuple[int, int], None]] = {}
        #: By folder: every number in its metadata.
        self.starts: dict[str, list[int]] = {}
        self.by(folder)

    def by(self, folder: str) -> None:
        """Read the metadata of a folder, once."""
        if folder in self._met:
            return
        self._met.add(folder)
        with open_source(folder) as source:
            if isinstance(source, Folder) and source.has(_METADATA):
                self.starts[folder] = _starts(source.open(_METADATA))
                self._read(source, folder)

    def _read(self, source: Folder, folder: str) -> None:
        site = Site(source, os.path.join(folder, _METADATA))  # noqa: PTH118
        try:
            places = read_metadata(source).places.values()
        except HoldfastError as error:
            problem = f"where its pieces lie is not sure: {error.what}"
            self._crawler.found.problem(site, problem)
            return
        for place in places:
            path = os.path.join(folder, place.file)  # noqa: PTH118
            if path not in self.slices:
                _opened(self._crawler, source, site, place.file)
            self.slices.setdefault(path, {})[place.offset, place.nbytes] = None


def _starts(metadata: Source) -> list[int]:
    """Every number in the metadata of a folder: where something starts is one of them."""
    found: dict[int, None] = {0: None}
    data = metadata.read_at(0, metadata.size)
    try:
        for _, value, _ in pickletools.genops(data):
            if isinstance(value, int) and value >= 0:
                found[value] = None
    except (ValueError, OverflowError):
        pass  # no reader comes further; that it is broken is told where its symbols are
    return list(found)


def _files(crawler: Crawler, folder: Folder, path: str, depth: int) -> Iterator[str]:
    """The paths of all files below a folder; links to folders are not followed."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        crawler.found.problem(Site(folder, path), f"this cannot be read: {error.strerror or error}")
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.path
        elif depth < _DEEPEST:
            yield from _files(crawler, folder, entry.path, depth + 1)
        else:
            crawler.found.problem(
                Site(folder, entry.path), "folders this deep are not looked through"
            )
