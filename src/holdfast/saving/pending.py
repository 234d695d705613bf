"""A save that was asked for: whether it is durable yet, and what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from holdfast.io.threads import Job
from holdfast.saving.foreground import SaveInfo


class PendingSave:
    """What ``run.save()`` returns: a save that may still be on its way to the disk.

    ``step`` is the step saved; ``waited`` the seconds the call waited for the save before it.
    """

    def __init__(
        self,
        step: int,
        write: Callable[[], SaveInfo],
        *,
        waited: float = 0.0,
        progress: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.step, self.waited = step, waited
        self._info: SaveInfo | None = None
        self._progress = progress
        self._job = Job(partial(self._run, write))
        self._is_told = False

    def __repr__(self) -> str:
        state = f"{self.progress:.0%}" if not self.done else "failed" if self.error else "durable"
        return f"PendingSave(step={self.step}, {state})"

    def _run(self, write: Callable[[], SaveInfo]) -> None:
        try:
            self._info = write()
        finally:
            self._progress = lambda: 0.0  # it holds the memory that the bytes were in

    @property
    def done(self) -> bool:
        """Whether it has ended: the checkpoint is durable, or the save has failed."""
        return self._job.done

    @property
    def progress(self) -> float:
        """The share of the bytes that are written, 0.0 to 1.0; 1.0 only when it is durable."""
        return 1.0 if self._info is not None else min(self._progress(), 0.99)

    @property
    def job(self) -> Job:
        """The work itself, for the thread that does it."""
        return self._job

    @property
    def error(self) -> BaseException | None:
        """What went wrong, while nobody was told."""
        return None if self._is_told or not self.done else self._job.error

    def tell(self) -> BaseException | None:
        """Wait, and take the error that nobody was told of."""
        self._job.wait()
        error, self._is_told = self.error, True
        return error

    def wait(self) -> None:
        """Return when the checkpoint is durable.

        Raises:
            HoldfastError: the save failed; the checkpoints before it are still there.
        """
        self._job.wait()
        if self._job.error is not None:
            self._is_told = True
            raise self._job.error

    def result(self) -> SaveInfo:
        """Wait, and say what was written where.

        Raises:
            HoldfastError: the save failed; the checkpoints before it are still there.
        """
        self.wait()
        assert self._info is not None
        return self._info
