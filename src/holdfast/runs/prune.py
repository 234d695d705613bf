"""What pruning removes and why: a plan, made without touching a file.

Whatever the policy says, these stay: the newest checkpoint, those the caller protects (the newest
that verified, the one resumed from), pinned ones, those that cannot be read, and those that no run
of holdfast saved under the name they bear.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.runs.entry import Entry
from holdfast.runs.keep import Keep

#: The key of a record's provenance under which a save notes the file name it was given.
NAME_KEY = "file"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one checkpoint, and why."""

    entry: Entry
    is_kept: bool
    why: str

    def __str__(self) -> str:
        return f"{self.entry.name}  {'stays' if self.is_kept else 'goes'}: {self.why}"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "name": self.entry.name,
            "path": str(self.entry.path),
            "step": self.entry.step,
            "nbytes": self.entry.nbytes,
            "is_kept": self.is_kept,
            "why": self.why,
        }


_STAYED: dict[str, Any] = {
    "is_kept": True,
    "why": "pinned, replaced or no longer readable when it was to be removed",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions of one pruning, oldest checkpoint first."""

    decisions: tuple[Decision, ...]

    @property
    def doomed(self) -> tuple[Entry, ...]:
        """The checkpoints to remove."""
        return tuple(one.entry for one in self.decisions if not one.is_kept)

    @property
    def nbytes(self) -> int:
        """The bytes that removing them gives back."""
        return sum(entry.nbytes for entry in self.doomed)

    def as_done(self, removed: Container[Path]) -> Plan:
        """The same when only these paths were removed: the other doomed ones stayed after all."""
        return Plan(
            tuple(
                one if one.is_kept or one.entry.path in removed else replace(one, **_STAYED)
                for one in self.decisions
            )
        )

    def __str__(self) -> str:
        return "\n".join(str(one) for one in self.decisions)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "decisions": [one.to_json() for one in self.decisions],
            "doomed": [entry.name for entry in self.doomed],
            "nbytes": self.nbytes,
        }


def plan(
    entries: Sequence[Entry], keep: Keep | None, *, protected: Mapping[str, str] | None = None
) -> Plan:
    """Decide for each entry (oldest to newest, as listed) whether it stays.

    ``protected`` maps ids of checkpoints that must stay to the reason in words. With ``keep=None``
    all stay.
    """
    subject = [place for place, entry in enumerate(entries) if _untouchable(entry) is None]
    records = [record for place in subject if (record := entries[place].record) is not None]
    by_policy = {} if keep is None else keep.keeps(records)
    reasons = {subject[position]: reason for position, reason in by_policy.items()}
    newest = subject[-1] if subject else None
    decisions = []
    for place, entry in enumerate(entries):
        stays = [
            _untouchable(entry),
            "the newest checkpoint" if place == newest else None,
            "pinned" if entry.is_pinned else None,
            (protected or {}).get(entry.id or ""),
            "nothing says what to keep" if keep is None else reasons.get(place),
        ]
        why = ", ".join(dict.fromkeys(reason for reason in stays if reason))
        decisions.append(Decision(entry, bool(why), why or _unwanted(keep)))
    return Plan(tuple(decisions))


def _untouchable(entry: Entry) -> str | None:
    """Why an entry is none of the policy's business; None when it is."""
    if entry.problem is not None:
        return "it cannot be read"
    if entry.record is None:
        return "holdfast did not write it"
    if entry.record.sequence is None:
        return "no run saved it"
    name = entry.record.provenance.get(NAME_KEY)
    if isinstance(name, str) and name != entry.name:
        return f"renamed or copied by hand: it was saved as {name}"
    return None


def _unwanted(keep: Keep | None) -> str:
    parts = str(keep).split(" | ")
    return f"none of {keep} keeps it" if len(parts) > 1 else f"{keep} does not keep it"
