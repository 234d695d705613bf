"""What a scan has found so far: pickles, programs, and what it could not look through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.pickles.values import Symbol
from holdfast.report import scan_words
from holdfast.report.scan import Named, Place, Problem
from holdfast.report.site import Site

#: Of archives that no directory orders: each member is looked for by its header.
TOO_MANY = "it holds more members than can be looked through one by one"
#: Code that Python or its loader runs, beside a model or in an archive (torch.package) with it.
_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")
_MOST_PLACES = 10_000
_MOST_PROBLEMS = 100
_MOST_PROGRAMS = 10_000


@dataclass(slots=True)
class _Found:
    """A place in the making."""

    offset: int | None
    pickles: int = 0
    symbols: dict[tuple[str, str], Symbol] = field(default_factory=dict)


class Findings:
    """Takes up what a scan finds; ``recognised`` counts what was known for what it is."""

    def __init__(self) -> None:
        self.problems: dict[Problem, None] = {}
        self.programs: dict[str, None] = {}
        #: How many pickles, and files that say where they end, were met: more after a look.
        self.recognised = 0
        self._places: dict[tuple[str, str], _Found] = {}

    def problem(self, site: Site, what: str) -> None:
        """Note what keeps the scan from being sure."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems[Problem(site.file, site.member, what)] = None

    def packed(self, site: Site, how: str) -> None:
        """Note what is packed in a way that nothing here unpacks."""
        self.problem(site, f"it is packed with {how}: unpack it and scan what comes out")

    def program(self, name: str) -> None:
        """Note something that is code."""
        if len(self.programs) < _MOST_PROGRAMS:
            self.programs[name] = None

    def note(
        self, site: Site, at: int, symbols: Iterable[Symbol], *, is_again: bool = False
    ) -> None:
        """Note a pickle at a position of a place, and what it names; ``is_again``: seen before."""
        key = (site.file, site.member)
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= _MOST_PLACES:
                self.problem(site, "it holds pickles in more places than any checkpoint")
                key = (site.file, "many more places")
            offset = None if site.is_unpacked else site.source.origin + at
            found = self._places.setdefault(key, _Found(offset))
        found.pickles += not is_again
        self.recognised += 1
        for symbol in symbols:
            known = found.symbols.setdefault((symbol.module, symbol.name), symbol)
            known.ways.update(symbol.ways)

    def places(self) -> tuple[Place, ...]:
        """All places with pickles, in the order they were met."""
        return tuple(
            Place(file, member, found.offset, found.pickles, self._named(file, member, found))
            for (file, member), found in self._places.items()
        )

    def _named(self, file: str, member: str, found: _Found) -> tuple[Named, ...]:
        # Without collectives each rank writes its own: __0.metadata.
        is_metadata = not member and file.endswith(".metadata")
        is_program = bool(self.programs)
        return tuple(
            _named(symbol, is_metadata=is_metadata, is_program=is_program)
            for symbol in found.symbols.values()
        )


def _named(symbol: Symbol, *, is_metadata: bool, is_program: bool) -> Named:
    module, name, ways = symbol.module, symbol.name, symbol.ways
    raw = f"{symbol.raw_module}.{symbol.raw_name}"
    return Named(
        module=module[:500],
        name=name[:500],
        how=tuple(ways) or ("imported",),
        written=raw[:1000] if module and raw != f"{module}.{name}" else None,
        is_allowed=scan_words.is_allowed(module, name, ways, is_metadata=is_metadata),
        verdict=scan_words.words(
            module, name, ways, is_program=is_program, is_metadata=is_metadata
        ),
    )


def is_code(name: str) -> bool:
    """Whether a file or member of this name is code, in any case of letters."""
    return name.lower().endswith(_CODE)
