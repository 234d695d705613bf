"""What a restore did: a value to print, to keep, or to hand on as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

#: Lines of details a part gets in the text; the JSON has them all.
_MOST_DETAILS = 20


@dataclass(frozen=True, slots=True)
class Renaming:
    """A rule that gave names of the checkpoint the names of the live part, and which."""

    rule: str
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Rename rules that would match more: what to paste, and how many names each would match."""

    rename: Mapping[str, str]
    matches: int
    why: str

    def __str__(self) -> str:
        return f"rename={dict(self.rename)!r}  # {self.why}: {self.matches} more would match"


@dataclass(frozen=True, slots=True)
class PartReport:
    """What happened to one part.

    ``found`` is the place in the checkpoint its state came from, ``why`` why that one. ``loaded``
    counts its tensors and plain values. ``missing`` are names only the live part has,
    ``unexpected`` names only the checkpoint has, ``differing`` those of another shape and ``cast``
    those of another dtype, as (name, saved, live). ``tied`` are names that share the memory of
    another one, ``skipped`` names left out on purpose with the reason, ``fresh`` parameters of an
    optimizer that start without state, or a scaler's scale. ``strict`` says how strictly it was
    matched, ``casts`` whether another dtype was allowed.
    """

    name: str
    kind: str
    found: str | None = None
    why: str | None = None
    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    differing: tuple[tuple[str, str, str], ...] = ()
    cast: tuple[tuple[str, str, str], ...] = ()
    renamed: tuple[Renaming, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    fresh: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None
    strict: bool | str = True
    casts: bool = True

    @property
    def fits(self) -> bool:
        """Whether it may be restored: in all names, shapes and dtypes, as strictly as was asked."""
        if self.problem is not None or (self.cast and not self.casts):
            return False
        if self.differing and self.strict != "shapes":
            return False
        return self.strict is not True or not (self.missing or self.unexpected)

    @property
    def is_whole(self) -> bool:
        """Whether everything of the live part was restored, and nothing was left over."""
        left = self.missing or self.unexpected or self.differing or self.skipped or self.fresh
        return self.problem is None and not left

    @property
    def has_lost(self) -> bool:
        """Whether state of the live part or of the checkpoint was left out that training may need.

        What a module's state has beside the module, and the empty state of a disabled scaler for
        one that is disabled (both are ``skipped``), is no loss.
        """
        left = self.missing or self.unexpected or self.differing or self.fresh or self.problem
        return bool(
            left or self.found is None or (self.skipped and self.kind not in ("module", "scaler"))
        )

    def lines(self) -> list[str]:
        """The report in words, counts first, details after."""
        head = ", ".join(self._counts()) or str(self.problem)
        if self.problem is not None and head != self.problem:
            head += f"; {self.problem}"
        details = [*self._details(), *(f"note: {note}" for note in self.notes)]
        lines = [f"{self.name}: {head}", *_first([f"  {line}" for line in details])]
        return [*lines, *(f"  try {suggestion}" for suggestion in self.suggestions)]

    def _counts(self) -> list[str]:
        counted = (
            (self.loaded if self.fits else 0, "loaded"),
            (len(self.missing), "missing"),
            (len(self.unexpected), "unexpected"),
            (len(self.differing), "of another shape"),
            (len(self.cast), "of another dtype"),
            (sum(len(rule.names) for rule in self.renamed), "renamed"),
            (len(self.tied), "tied"),
            (len(self.skipped), "skipped"),
            (len(self.fresh), "fresh"),
        )
        counts = [f"{count} {word}" for count, word in counted if count]
        return counts or ([] if self.problem else ["nothing to load"])

    def _details(self) -> list[str]:
        found = [] if self.why is None else [f"from {self.found}: {self.why}"]
        found += [f"missing in the checkpoint: {name}" for name in self.missing]
        found += [f"only in the checkpoint: {name}" for name in self.unexpected]
        found += [f"{name}: saved {was}, here {now}" for name, was, now in self.differing]
        verb = "cast" if self.casts else "not cast"
        found += [f"{verb}: {name} from {was} to {now}" for name, was, now in self.cast]
        found += [line for rule in self.renamed for line in _renamed(rule)]
        found += [f"tied: {name} is {other}" for name, other in self.tied]
        found += [f"skipped: {name} ({reason})" for name, reason in self.skipped]
        return found + [f"starts fresh: {name}" for name in self.fresh]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "found": self.found,
            "why": self.why,
            "fits": self.fits,
            "loaded": self.loaded if self.fits else 0,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "differing": [list(row) for row in self.differing],
            "cast": [list(row) for row in self.cast],
            "renamed": [
                {"rule": rule.rule, "names": [list(pair) for pair in rule.names]}
                for rule in self.renamed
            ],
            "tied": [list(pair) for pair in self.tied],
            "skipped": [list(pair) for pair in self.skipped],
            "fresh": list(self.fresh),
            "suggestions": [
                {"rename": dict(each.rename), "matches": each.matches, "why": each.why}
                for each in self.suggestions
            ],
            "notes": list(self.notes),
            "problem": self.problem,
        }


def _renamed(rule: Renaming) -> list[str]:
    first = rule.names[0]
    more = f" and {len(rule.names) - 1} more" if len(rule.names) > 1 else ""
    return [f"renamed by {rule.rule}: {first[0]} is {first[1]}{more}"]


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_DETAILS
    return lines if more <= 0 else [*lines[:_MOST_DETAILS], f"  and {more} more"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was restored from where, and what was not.

    ``not_asked`` names parts of the checkpoint that no live part took, ``opaque`` objects of other
    classes in it, none of which was built, ``not_restored`` says in words what could not be put
    back; ``extra`` holds the plain values no part claims, ``metrics`` those of the record.
    """

    source: str
    step: int | None = None
    id: str | None = None
    parts: tuple[PartReport, ...] = ()
    not_asked: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    not_restored: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def part(self, name: str) -> PartReport:
        """The report of one part; KeyError where no part bears that name."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def __getitem__(self, name: str) -> PartReport:
        return self.part(name)

    def __str__(self) -> str:
        lines = [self.source if self.step is None else f"{self.source} (step {self.step})"]
        lines += ["  " + line for part in self.parts for line in part.lines()]
        for what, names in (("not asked for", self.not_asked), ("of other classes", self.opaque)):
            if names:
                lines.append(f"  {what}: {', '.join(names)}")
        lines += [f"  not restored: {what}" for what in self.not_restored]
        return "\n".join(lines)

    def __rich__(self) -> Text:
        from rich.text import Text

        text = Text(str(self))
        text.highlight_words([f"{part.name}:" for part in self.parts if part.is_whole], "green")
        text.highlight_words([f"{part.name}:" for part in self.parts if not part.fits], "red")
        text.highlight_regex(r"(?m)^ +(missing|only) in the checkpoint", "yellow")
        text.highlight_regex(r"(?m)^ +(skipped|starts fresh|not restored|not cast)", "yellow")
        text.highlight_regex(r"rename=\{.*\}", "bold cyan")
        return text

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; of ``extra``, which may hold tensors, only the names."""
        return {
            "source": self.source,
            "step": self.step,
            "id": self.id,
            "parts": [part.to_json() for part in self.parts],
            "not_asked": list(self.not_asked),
            "opaque": list(self.opaque),
            "not_restored": list(self.not_restored),
            "extra": [str(name) for name in self.extra],
            "metrics": dict(self.metrics),
        }


def parts_in(reports: Sequence[PartReport]) -> str:
    """All parts that do not fit, in words, one block of lines."""
    return "\n".join(line for part in reports if not part.fits for line in part.lines())
