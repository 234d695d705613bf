"""Whether a checkpoint's bytes are those that were saved: every CRC it carries, checked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any

from holdfast.formats.at_rest import collector_at_rest
from holdfast.io.checksum import crc32_of, crc32_of_deflated
from holdfast.io.reading import crcs_of
from holdfast.io.source import Source
from holdfast.report.paths import first_few, tensors_by_storage
from holdfast.spec.index import Extent, Index

#: Why members have no CRC, by format; of those with files of several formats, which these are.
_NO_CRCS = {
    "torch_zip": "torch was told to compute none: torch.serialization.set_crc32_options",
    "torch_legacy": "files of torch before 1.6 have none",
    "torch_tar": "files of torch before 0.1.10 have none",
    "safetensors": "safetensors files have none",
    "safetensors_sharded": "safetensors files have none",
    "onnx": "ONNX files have none",
    "pickle": "pickles have none",
    "dcp": "what holds the tensors' places, and pickles among the data, have none",
    "dcp_safetensors": "safetensors files have none",
    "torch_sharded": "files of torch before 1.6 and listings have none",
    "model_folder": "safetensors files, JSON and files of torch before 1.6 have none",
}


@dataclass(frozen=True, slots=True)
class Damage:
    """One member whose bytes are not those that were saved, and the tensors in it.

    ``found_crc`` is None where a compressed member cannot even be unpacked.
    """

    member: str
    tensors: tuple[str, ...]
    expected_crc: int
    found_crc: int | None

    @property
    def crcs(self) -> str:
        """Both CRCs in words."""
        if self.found_crc is None:
            return f"it cannot be unpacked, saved with CRC {self.expected_crc:08x}"
        return f"CRC {self.found_crc:08x}, saved as {self.expected_crc:08x}"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; CRCs as eight hexadecimal digits."""
        return {
            "member": self.member,
            "tensors": list(self.tensors),
            "expected_crc": f"{self.expected_crc:08x}",
            "found_crc": None if self.found_crc is None else f"{self.found_crc:08x}",
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What checking a file gave.

    ``status`` is ``good`` (every member has a CRC and it is right), ``damaged``, or ``unknown``
    (none is wrong, but members without CRC could not be checked: ``unknown`` names them).
    ``checked_nbytes`` counts the bytes whose CRC was compared, ``members`` all members. ``why``
    says why members have no CRC, where that is known. Headers and padding between the members have
    no CRC in most formats: where two of them say the same thing, reading compares them.
    """

    file: str
    status: str
    damages: tuple[Damage, ...] = ()
    checked_nbytes: int = 0
    members: int = 0
    unknown: tuple[str, ...] = ()
    why: str | None = None

    @property
    def unknown_members(self) -> int:
        """How many members have no CRC."""
        return len(self.unknown)

    @property
    def ok(self) -> bool:
        """Whether nothing is known to be damaged."""
        return self.status != "damaged"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "file": self.file,
            "status": self.status,
            "damages": [damage.to_json() for damage in self.damages],
            "checked_nbytes": self.checked_nbytes,
            "members": self.members,
            "unknown_members": self.unknown_members,
            "unknown": list(self.unknown),
            "why": self.why,
        }

    def to_text(self) -> str:
        """One line, and one more for each damaged member."""
        if self.status == "good":
            return f"{self.file}: good ({self.members} members, {self.checked_nbytes:,} bytes)"
        if self.status == "unknown":
            names = f": {first_few(self.unknown)}" if self.unknown_members < self.members else ""
            return (
                f"{self.file}: unknown: {self.unknown_members} of {self.members} members were "
                f"saved without a checksum{f' ({self.why})' if self.why else ''}{names}"
            )
        lines = [f"{self.file}: damaged ({len(self.damages)} of {self.members} members)"]
        for damage in self.damages:
            tensors = f" ({first_few(damage.tensors)})" if damage.tensors else ""
            lines.append(f"  {damage.member}{tensors}: {damage.crcs}")
        return "\n".join(lines)


def verified_nbytes(index: Index, *, share: tuple[int, int] = (0, 1)) -> int:
    """The bytes that verifying reads: those with a checksum, or of them a ``share``."""
    return sum(each.nbytes for each in _extents(index, share)[1])


def _extents(index: Index, share: tuple[int, int]) -> tuple[list[Extent], list[Extent]]:
    """All that can be compared, in the order of their bytes; and what is, by this process."""
    with collector_at_rest():
        found = index.sealed or (*index.extents.values(), *index.other)
        extents = sorted(found, key=itemgetter(0, 1))  # by file and offset
        return extents, _known(extents, share)


def _known(extents: Sequence[Extent], share: tuple[int, int]) -> list[Extent]:
    """Those with a checksum; of several processes each gets about as many bytes of them."""
    number, count = share
    known = [extent for extent in extents if extent.expected_crc is not None]
    if count == 1:
        return known
    # One run of neighbours for each process, which reads front to back: those that begin in its
    # part of all bytes.
    starts = list(accumulate((each.nbytes for each in known), initial=0))
    return [
        extent
        for extent, at in zip(known, starts, strict=False)
        if at * count // (starts[-1] + 1) == number
    ]


def verify_index(
    index: Index,
    source: Source,
    *,
    on_progress: Callable[[int], object] | None = None,
    share: tuple[int, int] = (0, 1),
) -> VerifyReport:
    """Read every member of a checkpoint and compare its CRC with the one saved.

    ``on_progress`` is called with the number of bytes of each chunk read, from several threads.
    With a ``share`` (number, count) only that part of the members is read: of so many processes
    each takes one, and what all of them find good is.

    Raises:
        TruncatedError: the file ends early.
        FileError: the file system said no.
    """
    extents, known = _extents(index, share)
    crcs = _crcs_of(known, source, on_progress)
    wrong = [(e, crc) for e, crc in zip(known, crcs, strict=True) if crc != e.expected_crc]
    unknown = tuple(extent.member for extent in extents if extent.expected_crc is None)
    return VerifyReport(
        file=index.file,
        status="damaged" if wrong else ("unknown" if unknown else "good"),
        damages=_damages(index, wrong),
        checked_nbytes=sum(extent.nbytes for extent in known),
        members=len(extents),
        unknown=unknown,
        why=_NO_CRCS.get(index.format.removeprefix("gzip of ")) if unknown else None,
    )


def _crcs_of(
    extents: Sequence[Extent], source: Source, on_progress: Callable[[int], object] | None
) -> list[int | None]:
    """The CRC-32 of each extent; None for one that cannot be unpacked."""
    stored = [extent for extent in extents if not extent.is_deflated]

    def crc_of(number: int, start: int, nbytes: int) -> int:
        file, offset = source.of(stored[number].file), stored[number].offset
        return crc32_of(file, offset + start, nbytes, on_progress=on_progress)

    found = iter(crcs_of([extent.nbytes for extent in stored], crc_of))
    return [
        _crc_of_deflated(extent, source, on_progress) if extent.is_deflated else next(found)
        for extent in extents
    ]


def _crc_of_deflated(
    extent: Extent, source: Source, on_progress: Callable[[int], object] | None
) -> int | None:
    file = source.of(extent.file)
    return crc32_of_deflated(file, extent.offset, extent.nbytes, on_progress=on_progress)


def _damages(index: Index, wrong: list[tuple[Extent, int | None]]) -> tuple[Damage, ...]:
    if not wrong:
        return ()
    names = tensors_by_storage(index.tree)
    found = sorted((each.file, each.offset, key) for key, each in index.extents.items())

    def tensors(extent: Extent) -> tuple[str, ...]:
        first = bisect_left(found, (extent.file, extent.offset, ""))
        last = bisect_left(found, (extent.file, extent.offset + max(1, extent.nbytes), ""))
        return tuple(name for *_, key in found[first:last] for name in names.get(key, ()))

    return tuple(
        Damage(extent.member, tensors(extent), extent.expected_crc or 0, crc)
        for extent, crc in wrong
    )
