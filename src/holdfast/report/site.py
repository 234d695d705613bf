"""Some bytes of a file, and how a report calls their place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast.io.source import Source

BEHIND = "behind its end"


@dataclass(frozen=True, slots=True)
class Site:
    """Bytes to be looked through: in which file, and the way to them inside it.

    ``name`` is the last step of that way; empty where the bytes were found without being named.
    ``is_whole`` says that they are all of a file, which a reader may be handed as it is,
    ``is_behind`` that they followed where something else ended.
    """

    source: Source
    file: str
    member: str = ""
    depth: int = 0
    is_unpacked: bool = False
    name: str = ""
    is_whole: bool = False
    is_behind: bool = False

    def inside(
        self, source: Source, name: str, *, is_unpacked: bool = False, is_whole: bool = False
    ) -> Site:
        """A place inside this one."""
        name = name[:1000]
        member = f"{self.member} > {name}" if self.member else name
        is_unpacked = is_unpacked or self.is_unpacked
        return Site(source, self.file, member, self.depth + 1, is_unpacked, name, is_whole)

    def behind(self, at: int) -> Site:
        """What is left of this place from a position on."""
        behind = f"{self.member} > {BEHIND}" if self.member else BEHIND
        member = self.member if self.is_behind else behind
        rest = self.source.window(at, self.source.size - at)
        return replace(self, source=rest, member=member, name="", is_behind=True)
