"""What a restore did: a value to print, to keep, or to hand on as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PartReport:
    """What happened to one part.

    ``loaded`` counts its tensors and plain values; ``missing`` are names only the live part has,
    ``unexpected`` names only the checkpoint has, ``differing`` names whose shape or dtype differ,
    as (name, saved, live).
    """

    name: str
    kind: str
    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    differing: tuple[tuple[str, str, str], ...] = ()
    problem: str | None = None

    @property
    def fits(self) -> bool:
        """Whether checkpoint and live part agree in every name, shape and dtype."""
        return not (self.missing or self.unexpected or self.differing or self.problem)

    def lines(self) -> list[str]:
        """The report in words, counts first, details after."""
        if self.fits:
            return [f"{self.name}: {self.loaded} loaded"]
        counts = [
            f"{len(names)} {word}"
            for word, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape or dtype", self.differing),
            )
            if names
        ]
        head = f"{self.name}: " + (", ".join(counts) or str(self.problem))
        details = [f"  missing in the checkpoint: {name}" for name in self.missing]
        details += [f"  only in the checkpoint: {name}" for name in self.unexpected]
        details += [f"  {name}: saved {was}, here {now}" for name, was, now in self.differing]
        return [head, *_first(details, 20)]


def _first(lines: list[str], count: int) -> list[str]:
    more = len(lines) - count
    return lines if more <= 0 else [*lines[:count], f"  and {more} more"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was restored from where, and what was not.

    ``not_asked`` names parts of the checkpoint that no live part took, ``not_restored`` says in
    words what could not be put back; ``extra`` and ``metrics`` are the checkpoint's.
    """

    source: str
    step: int | None = None
    id: str | None = None
    parts: tuple[PartReport, ...] = ()
    not_asked: tuple[str, ...] = ()
    not_restored: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.source if self.step is None else f"{self.source} (step {self.step})"]
        lines += ["  " + line for part in self.parts for line in part.lines()]
        if self.not_asked:
            lines.append(f"  not asked for: {', '.join(self.not_asked)}")
        lines += [f"  not restored: {what}" for what in self.not_restored]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values, without ``extra``, which may hold tensors."""
        return {
            "source": self.source,
            "step": self.step,
            "id": self.id,
            "parts": [
                {
                    "name": part.name,
                    "kind": part.kind,
                    "loaded": part.loaded,
                    "missing": list(part.missing),
                    "unexpected": list(part.unexpected),
                    "differing": [list(row) for row in part.differing],
                    "problem": part.problem,
                }
                for part in self.parts
            ],
            "not_asked": list(self.not_asked),
            "not_restored": list(self.not_restored),
            "metrics": dict(self.metrics),
        }
