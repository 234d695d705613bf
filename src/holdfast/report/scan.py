"""What the pickles of a file would call, and whether all of it is in the closed table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from holdfast.report.scan_words import HARMFUL, PROGRAM_CLASS, PROGRAM_PART
from holdfast.spec.words import count, shortened

#: Lines of text for one place; JSON has all of them.
_MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class Named:
    """A symbol that a pickle names.

    ``how`` is what the pickle does with it: ``imported`` only, ``called``, ``built`` (state is set
    on what it made) or ``patched`` (on the symbol itself). ``written`` is the name as it stands in
    the file, where Python 2 called it otherwise. ``is_allowed`` says that it is in the closed
    table; ``verdict`` is a sentence about it that decides nothing.
    """

    module: str
    name: str
    how: tuple[str, ...]
    written: str | None
    is_allowed: bool
    verdict: str

    @property
    def symbol(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}" if self.module else self.name

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "module": self.module,
            "name": self.name,
            "how": list(self.how),
            "written": self.written,
            "is_allowed": self.is_allowed,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Where pickles lie: a file, the archive member or constant in it, the position of the first.

    ``member`` is empty for the file itself; ``a > b`` is b inside a. ``offset`` is None inside what
    had to be unpacked.
    """

    file: str
    member: str
    offset: int | None
    pickles: int
    symbols: tuple[Named, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "file": self.file,
            "member": self.member,
            "offset": self.offset,
            "pickles": self.pickles,
            "symbols": [symbol.to_json() for symbol in self.symbols],
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was not looked through whole, or that two programs read differently."""

    file: str
    member: str
    what: str

    def to_json(self) -> dict[str, str]:
        """The same as JSON values."""
        return {"file": self.file, "member": self.member, "what": self.what}


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a file or folder would have a reader call, were it loaded as a pickle.

    ``kind`` says what it is. ``verdict`` is the gravest of ``clean`` (all symbols are in the closed
    table), ``program`` (it holds code for a runtime, which ``programs`` lists), ``broken`` (not all
    of it could be looked through; ``problems`` says why), ``unknown symbols`` and ``harmful`` (some
    symbol that is not allowed is known to run commands).
    """

    file: str
    kind: str
    places: tuple[Place, ...] = ()
    programs: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def symbols(self) -> tuple[Named, ...]:
        """All symbols of all places."""
        return tuple(symbol for place in self.places for symbol in place.symbols)

    @property
    def pickles(self) -> int:
        """How many pickles were found."""
        return sum(place.pickles for place in self.places)

    @property
    def verdict(self) -> str:
        """The gravest of what was found."""
        outside = [symbol for symbol in self.symbols if not symbol.is_allowed]
        if any(symbol.verdict == HARMFUL for symbol in outside):
            return "harmful"
        # What only programs name is no other matter than the program itself.
        own = (PROGRAM_CLASS, PROGRAM_PART)
        if any(symbol.verdict not in own for symbol in outside):
            return "unknown symbols"
        if self.problems:
            return "broken"
        return "program" if self.programs or outside else "clean"

    @property
    def ok(self) -> bool:
        """Whether torch and pickle would run nothing of it; what else reads it is not known."""
        return self.verdict == "clean"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "file": self.file,
            "kind": self.kind,
            "verdict": self.verdict,
            "ok": self.ok,
            "pickles": self.pickles,
            "places": [place.to_json() for place in self.places],
            "programs": list(self.programs),
            "problems": [problem.to_json() for problem in self.problems],
        }

    def to_text(self) -> str:
        """The verdict, then the symbols of each place, those that are not allowed first."""
        lines = [f"{self.file}: {self._sentence()}"]
        for place in self.places:
            if place.symbols:
                lines.append(
                    f"  {shortened(_where(self.file, place.file, place.member) or 'symbols')}"
                )
                lines += _limited(_symbol_lines(place.symbols))
        lines += _limited(f"  program: {shortened(name)}" for name in self.programs)
        for problem in self.problems[:_MOST_LINES]:
            where = _where(self.file, problem.file, problem.member)
            lines.append(f"  not sure: {shortened(where) + ': ' if where else ''}{problem.what}")
        return "\n".join(lines)

    def _sentence(self) -> str:
        symbols = self.symbols
        outside = sum(not symbol.is_allowed for symbol in symbols)
        if self.verdict == "program":
            return f"program ({self.kind}): it is code for a runtime, and can do what that can"
        if self.verdict == "broken":
            return f"broken ({self.kind}): not all of it could be looked through"
        if outside:
            return (
                f"{self.verdict} ({self.kind}): {outside} of {len(symbols)} symbols outside the "
                "closed table"
            )
        if not self.pickles:
            return f"clean ({self.kind}): no pickle found, so torch and pickle run nothing of it"
        found = count(self.pickles, "pickle")
        if not symbols:
            verb = "name" if self.pickles > 1 else "names"
            return f"clean ({self.kind}): {found}, which {verb} nothing to call"
        return f"clean ({self.kind}): {found}, all {len(symbols)} symbols in the closed table"


def _symbol_lines(symbols: Iterable[Named]) -> list[str]:
    ordered = sorted(symbols, key=lambda symbol: symbol.is_allowed)
    return [
        f"    {'ok ' if symbol.is_allowed else 'NOT'} {shortened(symbol.symbol)}"
        f"{f' (written {shortened(symbol.written)})' if symbol.written else ''}, "
        f"{' and '.join(symbol.how)}: {symbol.verdict}"
        for symbol in ordered
    ]


def _limited(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    if len(found) <= _MOST_LINES:
        return found
    return [*found[:_MOST_LINES], f"    and {len(found) - _MOST_LINES:,} more"]


def _where(whole: str, file: str, member: str) -> str:
    inner = file.removeprefix(whole).lstrip("/")
    return " > ".join(part for part in (inner, member) if part)
