"""A save that was asked for: whether it is durable yet, and what it wrote."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.saving.foreground import SaveInfo


@dataclass(frozen=True, slots=True)
class PendingSave:
    """What ``run.save()`` returns.

    Saving happens in the foreground so far, so that it is done when this is made.
    """

    step: int
    info: SaveInfo

    @property
    def done(self) -> bool:
        """Whether the checkpoint is durable."""
        return True

    @property
    def progress(self) -> float:
        """The share of the bytes that are written, 0.0 to 1.0."""
        return 1.0

    def wait(self) -> None:
        """Return when the checkpoint is durable.

        Raises:
            HoldfastError: the save failed; the checkpoints before it are still there.
        """

    def result(self) -> SaveInfo:
        """Wait, and say what was written where."""
        self.wait()
        return self.info
