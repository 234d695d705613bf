"""What a run says in the log when it resumes: where from, what it skipped, what was lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from holdfast.runs.entry import Entry
from holdfast.state.report import LoadReport

log = logging.getLogger("holdfast")


def say_resumed(report: LoadReport, entry: Entry) -> None:
    """Say which checkpoint was restored, and what of the live state was not."""
    _say_what_was_not_restored(report)
    log.info("resumed from %s (step %s)", entry.path, entry.step)


def say_started(report: LoadReport, path: Path, step: int) -> None:
    """Say which checkpoint outside the run it began from, and what was not restored."""
    _say_what_was_not_restored(report)
    log.info("started from %s at step %d", path, step)


def say_went_back(skipped: Sequence[Entry], entry: Entry) -> None:
    """Say which checkpoints could not be restored before this one."""
    for bad in skipped:
        if bad.problem is not None:
            log.warning("skipped %s, which cannot be read: %s", bad.path, bad.problem.what)
    if skipped:
        log.warning("went back to %s (step %s)", entry.path, entry.step)


def say_none_there(folder: Path, others: Sequence[Entry]) -> None:
    """Say that the run begins at 0, and how to begin from a file that somebody else saved there."""
    log.warning("No checkpoint in %s, starting at 0", folder)
    if others:
        name = others[-1].name
        log.warning(
            "%s was not saved by a run; to begin from it: Run(..., start_from=%r)",
            name,
            str(folder / name),
        )


def _say_what_was_not_restored(report: LoadReport) -> None:
    for part in report.parts:
        if part.has_lost:
            log.warning("not all was restored: %s", "\n".join(part.lines()))
        elif part.notes:
            log.info("%s", "\n".join(part.lines()))
    for what in report.not_restored:
        log.warning("not restored: %s", what)
