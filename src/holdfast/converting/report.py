"""What a conversion did, or would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.converting.items import Item
from holdfast.spec.words import count, shortened, size

#: Lines of a kind in the text; JSON has all of them.
_SHOWN, _NAMES_SHOWN, _LONGEST = 10, 8, 1000


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What ``convert`` wrote, or with ``dry_run`` would write.

    ``files`` are the paths, with the bytes of each. ``items`` has every tensor; ``left_out`` what
    of the source is not in the new file. ``unfit`` counts, by name, finite numbers that the new
    type cannot hold (they became infinite, NaN, or its largest number). ``part`` is the part of the
    source that was taken, None for all of it.
    """

    source: str
    format_from: str
    format_to: str
    part: str | None
    files: Mapping[str, int]
    items: tuple[Item, ...] = field(repr=False)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unfit: Mapping[str, int] = field(default_factory=dict)
    is_dry_run: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())

    def to_text(self) -> str:
        """The files, what is in them, and the first of the notes; each on a line."""
        stored = sum(item.tied_to is None for item in self.items)
        names = f" under {len(self.items):,} names" if stored < len(self.items) else ""
        taken = "" if self.part is None else f" of {self.part}"
        done = "would be written" if self.is_dry_run else "written"
        lines = [f"{file}: {size(nbytes)}" for file, nbytes in self.files.items()]
        lines.append(f"{count(stored, 'tensor')}{taken} {done}{names}, {size(self.nbytes)}")
        lines += [f"Note: {note[:_LONGEST]}" for note in self.notes[:_SHOWN]]
        lines += _counted("more notes", len(self.notes) - _SHOWN)
        if self.left_out:
            lines.append(f"Left out: {_few(self.left_out)}")
        tied = [item for item in self.items if item.tied_to]
        lines += [
            f"Tied: {shortened(item.name)} is {shortened(item.tied_to or '')}, stored once"
            for item in tied[:_SHOWN]
        ]
        lines += _counted("more tied names", len(tied) - _SHOWN)
        unfit = list(self.unfit.items())
        lines += [
            f"Did not fit: {count(lost, 'number')} of {shortened(where)}, "
            "now infinite, NaN or the type's largest"
            for where, lost in unfit[:_SHOWN]
        ]
        lines += _counted("more tensors with such numbers", len(unfit) - _SHOWN)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; the keys are stable."""
        return {
            "source": self.source,
            "format_from": self.format_from,
            "format_to": self.format_to,
            "part": self.part,
            "files": dict(self.files),
            "nbytes": self.nbytes,
            "tensors": [item.to_json() for item in self.items],
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "unfit": dict(self.unfit),
            "is_dry_run": self.is_dry_run,
        }


def _counted(what: str, more: int) -> list[str]:
    return [f"  and {more:,} {what} (to_json and --json have all)"] if more > 0 else []


def _few(names: tuple[str, ...]) -> str:
    few, more = ", ".join(map(shortened, names[:_NAMES_SHOWN])), len(names) - _NAMES_SHOWN
    return f"{few} and {more:,} more (to_json and --json have all)" if more > 0 else few
