"""Look through a checkpoint folder: every file that lies in it."""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError
from holdfast.formats.dcp.metadata import read_metadata
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
    starts: dict[str, list[int]] = {}
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
                home = os.path.dirname(path)  # noqa: PTH120
                if home not in starts:
                    starts[home] = _starts(home)
                    _check_metadata(crawler, home)
                _look_at(crawler, source, path, starts[home])
        except HoldfastError as error:
            crawler.found.problem(site, error.what)


def _look_at(crawler: Crawler, source: Source, path: str, starts: list[int]) -> None:
    site = Site(source, path, is_whole=True)
    head = source.read_at(0, min(source.size, 512))
    if not path.endswith(".distcp") or is_packed(head) or crawl_tar.is_tar(head):
        crawler.look(site)
        return
    if (packing := packing_of(head, is_whole=True)) is not None:
        crawler.found.packed(site, packing)
    # Archives and pickles stand behind each other in it; the metadata says where they start.
    crawl_zip.look_leniently(crawler, site)
    for start in starts or [0]:
        if start < source.size and source.read_at(start, min(2, source.size - start)) != b"PK":
            window = source.window(start, source.size - start)
            crawler.look_for_pickles(site.inside(window, f"bytes at {start:,}"), is_pickle=False)


def _check_metadata(crawler: Crawler, folder: str) -> None:
    """Note metadata that torch may take for another than is seen here: where things lie is in it.

    It is read by a reader that takes records of numbers and text as torch writes them, and nothing
    that counts, calls or computes.
    """
    with open_source(folder) as source:
        try:
            if isinstance(source, Folder) and source.has(_METADATA):
                read_metadata(source)
        except HoldfastError as error:
            site = Site(source, os.path.join(folder, _METADATA))  # noqa: PTH118
            crawler.found.problem(site, f"where its pieces lie is not sure: {error.what}")


def _starts(folder: str) -> list[int]:
    """Every number in the metadata of a folder: where something starts is one of them."""
    metadata = os.path.join(folder, _METADATA)  # noqa: PTH118
    if not os.path.isfile(metadata):  # noqa: PTH113
        return []
    found: dict[int, None] = {0: None}
    with open_source(metadata) as source:
        data = source.read_at(0, source.size)
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
