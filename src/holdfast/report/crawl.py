"""Look through a file, and whatever lies inside it, for pickles."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from holdfast.errors import FormatError, NotACheckpointError
from holdfast.formats import sniff
from holdfast.formats.sharded import is_listing
from holdfast.formats.sniff import HEAD, is_legacy
from holdfast.io.source import Folder, Memory, Source
from holdfast.pickles.symbols import Allowance, walk
from holdfast.pickles.values import Constant, Walk
from holdfast.report import crawl_behind, crawl_folder, crawl_tar, crawl_zip
from holdfast.report.findings import Findings
from holdfast.report.scan import ScanReport
from holdfast.report.site import Site
from holdfast.report.unpack import RAW, WRAPPED, Unpacked, is_packed, packing_of, unpack

#: Files inside files.
_DEEPEST = 8
#: Bytes that are unpacked in one scan, beside four times those of the file.
_ALLOWANCE = 256 << 20
#: What shows whether a packed member is worth unpacking whole.
_PEEK = 64 << 10
#: Each pickle counts as so many opcodes: a chain of a million empty ones takes time as well.
_PER_PICKLE = 16
#: A pickle's opcodes are no more than its bytes; what lies in it is followed again.
_OPCODES, _PER_BYTE = 2_000_000, 4
_LONGEST_TEXT = 256 << 20

_PICKLE_NAME = re.compile(
    r"(^|/)(\.metadata|pickle|[^/]*\.(pkl|pickle|debug_pkl))\Z", re.IGNORECASE
)
#: TorchScript without an archive around it (torch/csrc/jit/serialization/mobile_bytecode.fbs).
_FLATBUFFER = b"PTMF"
_PICKLE_HEAD = re.compile(rb"\x80[\x02-\x05]")


class Crawler:
    """One scan: what it found, and what it may still spend."""

    def __init__(self) -> None:
        self.found = Findings()
        self.allowance = Allowance(_OPCODES)
        self._unpack_left = _ALLOWANCE

    def allow(self, nbytes: int) -> None:
        """Let the scan take time and memory for a file of so many bytes."""
        self.allowance.opcodes += _PER_BYTE * nbytes
        self._unpack_left += _PER_BYTE * nbytes

    # ---- looking

    def look(self, site: Site) -> None:
        """Find out what some bytes are and look through them, and through what follows them."""
        end = self._look_once(site)
        while end is not None and (left := site.source.size - end) > 0:
            if crawl_behind.is_zeros(site.source, end):
                return  # padding
            site, before = site.behind(end), self.found.recognised
            end = self._look_once(site)
            if end is None and self.found.recognised == before:
                self.found.problem(site, f"{left:,} bytes behind its end are nothing that is known")

    def _look_once(self, site: Site) -> int | None:
        """Look through what begins here; where it ends by its own account, if it says so."""
        source = site.source
        if site.depth > _DEEPEST:
            self.found.problem(
                site, f"files inside files are looked through {_DEEPEST} levels deep"
            )
            return None
        head = source.read_at(0, min(source.size, HEAD))
        if head[4:8] == _FLATBUFFER and site.is_whole:
            self.found.program("the flatbuffer")
        end, ends_as_zip = None, crawl_zip.is_zip(source, head, is_whole_file=site.is_whole)
        if ends_as_zip:
            end = crawl_zip.look(self, site, is_sure=head.startswith(b"PK"))
        if crawl_tar.is_tar(head):
            crawl_tar.look(self, site)
        if is_packed(head):
            return self.look_unpacked(site, WRAPPED)
        if head.startswith(crawl_zip.BEGINNINGS):
            return end
        return self._look_otherwise(site, head, ends_as_zip=ends_as_zip)

    def _look_otherwise(self, site: Site, head: bytes, *, ends_as_zip: bool) -> int | None:
        if (packing := packing_of(head, is_whole=site.is_whole)) is not None:
            self.found.packed(site, packing)
        # The size of a safetensors header may look like the beginning of a pickle.
        is_pickle = bool(_PICKLE_HEAD.match(head)) and site.is_whole
        is_pickle = is_pickle and not crawl_behind.is_safetensors(site.source, head)
        walked = self.look_for_pickles(
            site, is_pickle=is_pickle or bool(_PICKLE_NAME.search(site.name))
        )
        try:
            end = self._end(site, head)
        except FormatError as error:
            self.found.problem(site, error.what)
            return None
        self.found.recognised += end is not None
        is_pickle = site.is_whole and walked > 0 and not ends_as_zip
        return max(walked, end or 0) if end is not None or is_pickle else None

    def _end(self, site: Site, head: bytes) -> int | None:
        """Where a file ends by its own account; None where it gives none.

        An array of objects is a pickle behind a header: numpy.load runs it if it is allowed to.
        """
        source = site.source
        if is_legacy(head):
            return crawl_behind.end_of_legacy(source)
        if not site.depth and crawl_behind.is_safetensors(source, head):
            return crawl_behind.end_of_safetensors(source)
        array = crawl_behind.array_in(source, head)
        if array is None:
            return None
        start, end = array
        if end is None:
            inner = site.inside(source.window(start, source.size - start), "array")
            end = start + self.look_for_pickles(inner, is_pickle=True)
        return end

    def look_unpacked(self, site: Site, window_bits: int) -> int | None:
        """Unpack as much as shows what it is, and the rest if that matters.

        Where the packed bytes end is given, if they were unpacked to there.
        """
        is_member = window_bits == RAW
        most = self._unpack_left if site.is_whole else min(_PEEK, self._unpack_left)
        found = unpack(site.source, most, window_bits)
        self._unpack_left -= len(found.data)
        if found.has_more and not site.is_whole and self._is_worth_more(found.data, site):
            found = unpack(site.source, self._unpack_left, window_bits)
            self._unpack_left -= len(found.data)
        self.found.recognised += found.end is not None
        self._look_at(found, site, is_member=is_member)
        if is_member and site.name and found.end not in (None, site.source.size):
            self.found.problem(site, "bytes behind what is packed are looked through by nobody")
        return None if is_member else found.end

    def _look_at(self, found: Unpacked, site: Site, *, is_member: bool) -> None:
        if found.has_more and self._unpack_left <= 0:
            self.found.problem(site, "it unpacks to too much to be looked through: unpack it first")
        is_sure = site.name if is_member else site.is_whole or _is_gzip(site.source)
        if found.is_broken and is_sure:
            self.found.problem(site, "it unpacks only in part")
        if not found.data:
            return
        source = Memory(found.data, site.file)
        if is_member:
            self.look(replace(site, source=source, is_unpacked=True))
        else:
            self.look(site.inside(source, "unpacked", is_unpacked=True, is_whole=site.is_whole))

    def _is_worth_more(self, data: bytes, site: Site) -> bool:
        """Whether its beginning is that of a pickle, or of something with files in it."""
        if (
            data.startswith((b"PK", crawl_behind.NUMPY))
            or is_packed(data)
            or crawl_tar.is_tar(data[:512])
        ):
            return True
        if _PICKLE_HEAD.match(data) or _PICKLE_NAME.search(site.name):
            return True
        source, at = Memory(data, site.file), 0
        while at < len(data):  # a reader may go on behind any number of small ones
            self.allowance.opcodes -= _PER_PICKLE
            walked = walk(source, at, is_guess=True, allowance=self.allowance)
            if not walked.is_finished:
                return walked.is_short or walked.is_cut_short
            at = walked.end
        return True

    # ---- pickles

    def look_for_pickles(self, site: Site, *, is_pickle: bool) -> int:
        """Follow the pickle at the beginning, if it is one, and those right behind each other.

        ``is_pickle`` says that it is called one: it is then followed beyond what does not fit. The
        position behind the last one is given.
        """
        head = site.source.read_at(0, min(site.source.size, HEAD))
        sure, at, count = 5 if is_legacy(head) else int(is_pickle), 0, 0
        memo: dict[int, Any] | None = None
        while at < site.source.size:
            walked = self.walk(site, at, is_guess=count >= sure)
            if walked is None:
                break
            # One reader begins anew with each pickle, another keeps what it knew.
            if memo and walked.memo is not None:
                self.walk(site, at, is_guess=True, memo=memo)
            elif walked.memo is not None:
                memo = walked.memo
            at, count = walked.end, count + 1
            if not walked.is_finished:
                break
        return at

    def walk(
        self, site: Site, at: int, *, is_guess: bool, memo: dict[int, Any] | None = None
    ) -> Walk | None:
        """Follow one pickle and note what it names; None where there is none.

        With ``memo``, that of the pickle before, the same pickle is followed again.
        """
        self.allowance.opcodes -= _PER_PICKLE
        allowance = self.allowance
        walked = walk(site.source, at, is_guess=is_guess, allowance=allowance, memo=memo)
        if walked.is_cut_short or (walked.problem is not None and not is_guess):
            behind = f"the pickle at byte {at:,}: " if at else "the pickle: "
            self.found.problem(site, f"{behind}{walked.problem}")
        is_first = site.is_whole and not at and not site.is_behind
        if is_guess and not (walked.is_convincing or (is_first and walked.names_plainly)):
            return None
        self.found.note(site, at, walked.symbols, is_again=memo is not None)
        for constant in walked.constants if memo is None else ():
            self._look_at_constant(site, constant)
        return walked

    def _look_at_constant(self, site: Site, constant: Constant) -> None:
        source: Source = site.source.window(constant.offset, constant.nbytes)
        name = (
            f"text at {constant.offset:,}" if constant.decode else f"bytes at {constant.offset:,}"
        )
        if constant.decode is not None:
            if constant.nbytes > _LONGEST_TEXT:
                self.found.problem(site, f"the {name} is too long to be looked through")
                return
            try:
                text = constant.decode(source.read_at(0, constant.nbytes))
                source = Memory(text.encode("latin-1"), site.file)
            except ValueError:
                return  # no bytes can be made of it
        self.look(site.inside(source, name, is_unpacked=constant.decode is not None))


def _is_gzip(source: Source) -> bool:
    return source.read_at(0, min(source.size, 2)) == b"\x1f\x8b"


def scan_source(source: Source) -> ScanReport:
    """Look through a file or a folder, whatever it is; nothing in it is run or imported.

    Raises:
        FileError: the file system said no.
        TruncatedError: the file became shorter meanwhile.
    """
    crawler = Crawler()
    kind = _kind(source)
    if isinstance(source, Folder):
        crawl_folder.look(crawler, source)
    else:
        crawler.allow(source.size)
        crawler.look(Site(source, source.name, is_whole=True))
        if source.path is not None and is_listing(source):
            crawl_folder.look_at_listed(crawler, source)
        if kind == "onnx":
            crawler.found.program("the graph")
    return ScanReport(
        file=source.name,
        kind=kind,
        places=crawler.found.places(),
        programs=tuple(crawler.found.programs),
        problems=tuple(crawler.found.problems),
    )


def _kind(source: Source) -> str:
    """The format's name; of what is of none, what it is instead."""
    try:
        return sniff.kind_of(source)[0]
    except NotACheckpointError as error:
        if source.is_folder:
            return "a folder"
        return error.what.removeprefix("this is ")
    except FormatError:
        return "no whole file of a known format"
