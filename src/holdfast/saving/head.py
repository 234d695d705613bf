"""The checkpoint that the live state goes on from: the next save's parent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from holdfast.errors import UsageError


class Head(NamedTuple):
    """What training has reached, and when (``time.monotonic()``) that was saved or restored.

    ``metrics`` is None where it is no checkpoint of this run.
    """

    id: str | None
    step: int | None
    metrics: Mapping[str, float] | None
    saved_at: float

    @classmethod
    def now(
        cls, id: str | None, step: int | None, metrics: Mapping[str, float] | None = None
    ) -> Head:
        """The head from this moment on."""
        return cls(id, step, metrics, time.monotonic())

    def is_saved(self, step: int, metrics: Mapping[str, float], folder: Path) -> bool:
        """Whether ``step`` is the head, and not behind it.

        Raises:
            UsageError: the step is behind the head, or saved with other metrics.
        """
        if self.step is None or step > self.step:
            return False
        if step < self.step or self.metrics is None:
            raise UsageError(
                "this step is behind the one that training has reached",
                file=folder,
                wanted=f"a step after {self.step}",
                found=f"step {step}",
                cure="Count steps through all epochs; to go back call run.resume(step) first.",
            )
        if metrics and repr(metrics) != repr(dict(self.metrics)):
            raise UsageError(
                f"step {step} is saved already, with other metrics",
                file=folder,
                wanted=repr(dict(self.metrics)),
                found=repr(metrics),
                cure="Save each step once, with all its metrics.",
            )
        return True
