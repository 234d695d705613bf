"""A run as it went: its checkpoints with what they went on from, branches, and what is gone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from holdfast.runs.entry import Entry
from holdfast.runs.marks import Overview


def timeline(seen: Overview) -> dict[str, Any]:
    """The facts of a run's page as JSON values: those of ``list``, and more for each checkpoint.

    These are ``seconds`` since the one before it was saved; ``written``, how many the save took,
    from its record to the file's last byte (None of all where one file is older than its record, or
    younger than the record of the save behind it: they were copied, or touched);
    ``branch``, 0, and one more each time training went back; ``pruned``, how many saves before it
    are gone; ``parent_name``; and ``named_step``, the number in its name, as of what cannot be read
    nothing else is known.
    """
    made = seen.to_json()
    names = {entry.id: entry.name for entry in seen.entries if entry.id is not None}
    branches = _branches(seen.entries)
    took = _written(seen.entries)
    before: Entry | None = None
    for entry, values, branch in zip(seen.entries, made["checkpoints"], branches, strict=True):
        values["branch"] = branch
        values["seconds"] = None if before is None else _seconds(before, entry)
        values["pruned"] = _gone_between(before, entry)
        values["written"] = took.get(entry.name)
        values["parent_name"] = names.get(values["parent"])
        values["named_step"] = _step_in(entry.name)
        before = entry if entry.problem is None else before
    return {**made, "metrics": list(seen.metrics), "branches": max(branches, default=0) + 1}


def _step_in(name: str) -> int | None:
    """The last number in a file's name, as that of ``step-00000100.pt``."""
    found = re.findall(r"[0-9]{1,15}", name)
    return int(found[-1]) if found else None


def _branches(entries: Sequence[Entry]) -> list[int]:
    """The number of each checkpoint's branch: a new one begins where training went back."""
    ids = {entry.id for entry in entries if entry.id is not None}
    made, branch = [], 0
    last: Entry | None = None
    for entry in entries:
        if entry.problem is None and entry.step is not None:
            branch += last is not None and _goes_back(last, entry, ids)
            last = entry
        made.append(branch)
    return made


def _goes_back(last: Entry, entry: Entry, ids: set[str]) -> bool:
    """Whether one was saved after going back behind the last."""
    if entry.step is not None and last.step is not None and entry.step <= last.step:
        return True
    parent = None if entry.record is None else entry.record.parent
    return parent in ids and parent != last.id


def _gone_between(before: Entry | None, entry: Entry) -> int:
    """How many saves of the run lay between two that are there."""
    if entry.sequence is None:
        return 0
    first = -1 if before is None or before.sequence is None else before.sequence
    return max(0, entry.sequence - first - 1)


def _written(entries: Sequence[Entry]) -> dict[str, float]:
    """By name the seconds from when each record was made until its file was written."""
    ours = [entry for entry in entries if entry.problem is None and entry.record is not None]
    began = [_moment(entry) for entry in ours]
    ends = [*began[1:], None][: len(began)]  # a save begins when the one before it has ended
    found: dict[str, float] = {}
    for entry, first, end in zip(ours, began, ends, strict=True):
        if first is None:
            continue
        seconds = entry.mtime - first
        if not -_CLOCKS <= seconds < _LONGEST or (end is not None and entry.mtime > end + _CLOCKS):
            return {}
        found[entry.name] = max(0.0, seconds)
    return found


def _moment(entry: Entry) -> float | None:
    try:
        return datetime.fromisoformat((entry.record and entry.record.time) or "").timestamp()
    except ValueError:
        return None


#: Seconds; a file that is younger than its record by more was copied.
_LONGEST = 3600
#: Seconds by which the clock of the file system may be another one.
_CLOCKS = 0.1


def _seconds(before: Entry, entry: Entry) -> float | None:
    times = [each.record.time if each.record else None for each in (before, entry)]
    try:
        one, other = (datetime.fromisoformat(time or "") for time in times)
        return (other - one).total_seconds()
    except (ValueError, TypeError):  # other code's, or a time that is none
        return None
