"""Some bytes of a file, and how a report calls their place."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.io.source import Source


@dataclass(frozen=True, slots=True)
class Site:
    """Bytes to be looked through: in which file, and the way to them inside it.

    ``name`` is the last step of that way; empty where the bytes were found without being named.
    """

    source: Source
    file: str
    member: str = ""
    depth: int = 0
    is_unpacked: bool = False
    name: str = ""

    def inside(self, source: Source, name: str, *, is_unpacked: bool = False) -> Site:
        """A place inside this one."""
        name = name[:1000]
        member = f"{self.member} > {name}" if self.member else name
        is_unpacked = is_unpacked or self.is_unpacked
        return Site(source, self.file, member, self.depth + 1, is_unpacked, name)
