"""What all archives of torch have in common: one root, a version, a byte order, pickles, CRCs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import DamagedError, FormatError, RefusedError
from holdfast.formats.torch_zip.storages import Storages
from holdfast.formats.zip_archive import LARGEST_PICKLE, Member, read_member, read_members
from holdfast.io.checksum import crc32
from holdfast.io.source import Source
from holdfast.pickles.reader import Pickled, read
from holdfast.pickles.table import Call, Symbol
from holdfast.spec.index import Extent

_OLDEST, _NEWEST = 1, 10


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip archive as torch writes them: all members lie in the folder ``root``.

    ``has_crcs`` is False where torch was told not to compute CRCs; it then writes 0 everywhere.
    ``within`` begins the keys and names of all that lies in an archive inside another checkpoint.
    """

    source: Source
    members: Mapping[str, Member]
    root: str
    has_crcs: bool
    within: str = ""

    def find(self, name: str) -> Member | None:
        """The member of a name below the root."""
        return self.members.get(f"{self.root}/{name}")

    def below(self, folder: str) -> list[Member]:
        """The members in a folder below the root, in order."""
        prefix = f"{self.root}/{folder}/"
        return [member for name, member in self.members.items() if name.startswith(prefix)]

    def short(self, member: Member) -> str:
        """A member's name without the root."""
        return member.name.partition("/")[2]

    def data(self, member: Member, *, what: str = "", most: int | None = None) -> bytes:
        """The bytes of a member, unpacked; with ``what`` only if their CRC is right.

        Raises:
            DamagedError: it is not; the letter says what is damaged.
            RefusedError: it is larger than such members are.
        """
        options = {} if most is None else {"most": most}
        data = read_member(self.source, member, **options)
        found = crc32(data) if what and self.has_crcs else member.crc
        if found != member.crc:
            raise DamagedError(
                f"{what} is damaged",
                file=self.source.name,
                member=member.name,
                wanted=f"CRC {member.crc:08x}",
                found=f"{found:08x}",
                cure="Nothing in this file can be trusted: use an earlier checkpoint.",
            )
        return data

    def pickle(
        self,
        name: str,
        *,
        encoding: str,
        folder: str = "data",
        calls: Mapping[Symbol, Call] | None = None,
    ) -> tuple[Pickled, Storages]:
        """The pickle of a name below the root, whose storages lie in ``folder``.

        Raises:
            FormatError: there is none.
        """
        member = self.find(name)
        if member is None:
            raise FormatError(
                "this archive lacks the pickle that says what it holds",
                file=self.source.name,
                wanted=f"a member {self.root}/{name}",
                cure="The file is broken: get it again, or use an earlier one.",
            )
        what = "the pickle that says what the file holds"
        data = self.data(member, what=what, most=LARGEST_PICKLE)
        prefix = self.within if folder == "data" else f"{self.within}{folder}/"
        storages = Storages(self.members, self.root, folder, prefix)
        pickled = read(
            data,
            persistent=storages,
            encoding=encoding,
            file=self.source.name,
            member=self.within + member.name,
            calls=calls,
        )
        return pickled, storages

    def extent(self, member: Member) -> Extent:
        """Where a member's bytes lie."""
        return Extent(
            self.source.name,
            self.source.origin + member.offset,
            member.nbytes,
            member.crc if self.has_crcs else None,
            self.within + member.name,
            is_deflated=not member.is_stored,
        )

    def extents(self, storages: Storages) -> dict[str, Extent]:
        """Where the storages lie that a pickle names, by their keys."""
        members, extent, member_of = self.members, self.extent, storages.member_of
        return {key: extent(members[member_of(key)]) for key in storages.named}

    def others(self, used: Mapping[str, Extent]) -> tuple[Extent, ...]:
        """Where all members lie that are not among the ``used`` storages."""
        names = {extent.member for extent in used.values()}
        members = (m for m in self.members.values() if self.within + m.name not in names)
        return tuple(self.extent(member) for member in members)

    def check_version(self) -> None:
        """Go on only with an archive of a known version.

        Raises:
            FormatError: it is another, or none is said.
        """
        member = self.find("version") or self.find(".data/version")
        if member is None:
            raise FormatError(
                "this archive does not say which version it is",
                file=self.source.name,
                wanted=f"a member {self.root + '/version'!r}",
                cure="It was not written by torch.save, or was repacked without it.",
            )
        text = read_member(self.source, member)[:20].strip()
        if not text.isdigit() or not _OLDEST <= int(text) <= _NEWEST:
            raise FormatError(
                "this archive has a version that holdfast does not know",
                file=self.source.name,
                member=member.name,
                wanted=f"{_OLDEST} to {_NEWEST}",
                found=ascii(text.decode("ascii", "replace")),
                cure="A newer holdfast may read it.",
            )

    def byteorder(self) -> str:
        """``little`` or ``big``; files from before torch 2.1 do not say, and are little.

        Raises:
            FormatError: it says something else.
        """
        member = self.find("byteorder")
        if member is None:
            return "little"
        order = read_member(self.source, member)[:20]
        if order not in (b"little", b"big"):
            raise FormatError(
                "this archive does not say in which order its bytes are",
                file=self.source.name,
                member=member.name,
                wanted="little or big",
                found=ascii(order.decode("ascii", "replace")),
            )
        return order.decode()


def archive_of(
    source: Source, members: Mapping[str, Member] | None = None, within: str = ""
) -> Archive:
    """The archive in a source; ``members`` when they are read already.

    Raises:
        TruncatedError: the file ends too early.
        RefusedError: a member lies outside the root, or two readers could see two archives.
    """
    members = read_members(source) if members is None else members
    has_crcs = any(member.crc for member in members.values())
    return Archive(source, members, root_of(source, members), has_crcs, within)


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
