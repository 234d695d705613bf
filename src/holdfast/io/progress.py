"""A bar on stderr for work that takes over a second: bytes done, and how fast."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from typing_extensions import Self

#: Seconds before it appears.
PATIENCE = 1.0


def is_watched() -> bool:
    """Whether a person sees what is written to stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


class Bar:
    """Count bytes, and show a bar where a person watches; nothing else is ever printed.

    ``nbytes`` is what is to be done in all, None where that is not known. Several threads may tell
    of progress.
    """

    def __init__(self, nbytes: int | None) -> None:
        self._nbytes, self._done = nbytes, 0
        self._lock = threading.Lock()
        self._starts = time.monotonic() + PATIENCE
        self._is_watched = is_watched()
        self._shown: tuple[Progress, TaskID] | None = None

    def advance(self, nbytes: int) -> None:
        """So many more bytes are done."""
        if not self._is_watched:
            return
        with self._lock:
            self._done += nbytes
            if self._shown is None and time.monotonic() >= self._starts:
                self._shown = self._begin()
            if self._shown is not None:
                progress, task = self._shown
                progress.update(task, completed=self._done)

    def _begin(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns: tuple[Any, ...] = (BarColumn(), DownloadColumn(True), TransferSpeedColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.start()
        return progress, progress.add_task("", total=self._nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown[0].stop()
