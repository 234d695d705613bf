"""What a list of a run says beside each checkpoint: latest, best, pinned, unreadable, foreign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import NoCheckpointError
from holdfast.runs.entry import Entry
from holdfast.runs.finding import find
from holdfast.runs.keep import ranking
from holdfast.runs.listing import list_run


@dataclass(frozen=True, slots=True)
class Overview:
    """A run as a list shows it: entries oldest to newest, and the marks of each.

    ``best`` maps the metrics that a policy keeps by to the name of the best checkpoint.
    """

    folder: str
    entries: tuple[Entry, ...]
    marks: tuple[tuple[str, ...], ...]
    latest: str | None
    best: dict[str, str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of any checkpoint, in the order first met."""
        return tuple(dict.fromkeys(name for entry in self.entries for name in entry.metrics))

    @property
    def has_foreign(self) -> bool:
        """Whether some were saved by other code, and so are ordered by something else."""
        return any(e.order_by != "sequence" for e in self.entries if e.problem is None)

    @property
    def nbytes(self) -> int:
        """The bytes of all checkpoints together."""
        return sum(entry.nbytes for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values: folder, latest, best, nbytes, checkpoints (with marks)."""
        return {
            "folder": self.folder,
            "latest": self.latest,
            "best": self.best,
            "nbytes": self.nbytes,
            "checkpoints": [
                {**entry.to_json(), "marks": list(marks)}
                for entry, marks in zip(self.entries, self.marks, strict=True)
            ],
        }


def overview(folder: str | Path) -> Overview:
    """List a run and mark its checkpoints; no lock is taken and nothing is created.

    Raises:
        NoCheckpointError: the folder is not there, or holds no checkpoint.
        FileError: it is a file, or may not be read.
    """
    entries = list_run(folder)
    if not entries:
        find(entries, folder=folder)  # raises the letter that says so
        raise NoCheckpointError("there is no checkpoint in this folder", file=folder)
    return mark(str(folder), entries)


def mark(folder: str, entries: Sequence[Entry]) -> Overview:
    """Mark the entries of a run (oldest to newest, as listed)."""
    readable = [entry for entry in entries if entry.problem is None]
    latest = readable[-1].name if readable else None
    best = _best(readable)
    marks = tuple(_marks(entry, latest, best) for entry in entries)
    return Overview(folder, tuple(entries), marks, latest, best)


def _best(readable: Sequence[Entry]) -> dict[str, str]:
    modes: dict[str, str] = {}
    for entry in readable:
        modes.update({} if entry.record is None else entry.record.best)
    orders = {name: ranking([e.metrics for e in readable], name, modes[name]) for name in modes}
    return {name: readable[order[0]].name for name, order in orders.items() if order}


def _marks(entry: Entry, latest: str | None, best: dict[str, str]) -> tuple[str, ...]:
    if entry.problem is not None:
        shown = [f"unreadable: {entry.problem.what}"]
    elif entry.order_by == "sequence":
        shown = []
    else:
        by = "file time" if entry.order_by == "time" else entry.order_by
        shown = [f"other code's, by {by}"]
    shown += ["latest"] * (entry.name == latest)
    shown += [f"best {metric}" for metric, name in best.items() if name == entry.name]
    shown += ["pinned"] * entry.is_pinned
    return tuple(shown)
