"""Carry a pruning out: the writer's lock, a plan, the trash."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.errors import FileError, HoldfastError
from holdfast.io.cures import cure_of
from holdfast.io.folders import trash
from holdfast.runs import prune
from holdfast.runs.entry import Entry
from holdfast.runs.keep import Keep
from holdfast.runs.leftovers import sweep_trash
from holdfast.runs.listing import list_run
from holdfast.runs.lock import RunLock
from holdfast.runs.pins import is_pinned
from holdfast.runs.reading import read_briefly

log = logging.getLogger("holdfast")


def plan_of_run(folder: Path, keep: Keep, *, is_whole: Callable[[Path], bool]) -> prune.Plan:
    """What pruning would remove of a run; the newest checkpoint that ``is_whole`` always stays.

    Raises:
        NoCheckpointError: there is no such folder.
    """
    entries = list_run(folder)
    return prune.plan(entries, keep, protected=newest_whole(entries, is_whole))


def remove(folder: Path, plan: prune.Plan) -> list[Path]:
    """Remove what a plan dooms, holding the run's lock; all of it, or after an error none or some.

    The paths removed: what was pinned or replaced since the plan stays, and so does what cannot be
    read any more.

    Raises:
        LockedError: a training is writing to this run; it prunes for itself.
        FileError: not all could be removed.
    """
    if not plan.doomed:
        return []
    with RunLock(folder):
        still_there = {entry.path for entry in list_run(folder) if not entry.is_pinned}
        return trash_same([entry for entry in plan.doomed if entry.path in still_there])


def trash_same(entries: Sequence[Entry]) -> list[Path]:
    """Remove checkpoints of one folder, holding its lock; the paths removed.

    A path that holds another checkpoint by now stays, and what has been pinned meanwhile. What a
    pruning before it could not remove goes too.

    Raises:
        FileError: not all could be removed.
    """
    doomed = [entry.path for entry in entries if _is_same(entry)]
    if doomed:
        sweep_trash(doomed[0].parent)
    try:
        return trash(doomed, is_kept=is_pinned)
    except OSError as error:
        folder = doomed[0].parent
        otherwise = "Check who owns the folder and its permissions: ls -ld {folder}"
        raise FileError(
            f"old checkpoints could not be removed: {error.strerror or error}",
            errno=error.errno,
            file=folder,
            cure=cure_of(error, folder, otherwise=otherwise),
        ) from error


def _is_same(entry: Entry) -> bool:
    """Whether the checkpoint that was listed is the one there: somebody may have replaced it."""
    try:
        record = read_briefly(entry.path).record
    except HoldfastError as error:
        log.warning("%s stays, as it cannot be read any more: %s", entry.path, error.what)
        return False
    return record is not None and record.id == entry.id


def newest_whole(entries: Sequence[Entry], is_whole: Callable[[Path], bool]) -> dict[str, str]:
    """The id of the newest checkpoint that verifies, with the reason why it must stay."""
    for entry in reversed(entries):
        if entry.id is not None and entry.sequence is not None and is_whole(entry.path):
            return {entry.id: "the newest that verified"}
    return {}
