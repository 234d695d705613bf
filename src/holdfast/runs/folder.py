"""A run folder as an object that only reads it, and pins."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.runs import finding, listing, pins
from holdfast.runs.checking import MODES
from holdfast.runs.entry import Entry


class RunFolder:
    """The checkpoints of a run; no lock is taken and no folder is made."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            self.folder = Path(folder).resolve()
        except (ValueError, RuntimeError, OSError) as error:  # a NUL, a loop of links
            raise UsageError(
                f"this cannot be the path of a run: {error}", found=repr(os.fspath(folder))
            ) from error

    def checkpoints(self) -> list[Entry]:
        """The checkpoints of the folder, oldest to newest; those that cannot be read come last."""
        return listing.list_run(self.folder) if listing.is_there(self.folder) else []

    def latest(self) -> Entry | None:
        """The newest checkpoint that can be read, or None."""
        readable = [entry for entry in self.checkpoints() if entry.problem is None]
        return readable[-1] if readable else None

    def best(self, metric: str, mode: str | None = None) -> Entry:
        """The checkpoint whose metric is best; ``mode`` (min, max) as recorded if not given.

        Raises:
            UsageError: no checkpoint has the metric, or its mode is not known.
            NoCheckpointError: there is no checkpoint, or the metric is NaN in each.
        """
        if mode not in (None, *MODES):
            raise UsageError("best() has two modes", wanted="'min' or 'max'", found=repr(mode))
        return self._find(f"best:{metric}" if mode is None else f"best:{metric}:{mode}")

    def pin(self, step: int | str) -> None:
        """Keep the checkpoint of a step (or ``latest``, ``best:loss``) for good."""
        pins.pin(self._find(step).path)

    def unpin(self, step: int | str) -> None:
        """Let ``keep`` decide about that checkpoint again."""
        pins.unpin(self._find(step).path)

    def _find(self, which: str | int) -> Entry:
        entries = self.checkpoints()
        found = finding.find(entries, which, folder=self.folder)
        finding.say_passed_over(entries, which)
        return found
