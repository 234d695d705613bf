"""How often a run saves: ``every(steps=100)``, ``every(minutes=10)``, or whichever comes first."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.runs.checking import checked_count, checked_minutes, shown_period


@dataclass(frozen=True, slots=True)
class Every:
    """A schedule: due after so many steps, or so many minutes, whichever comes first."""

    steps: int | None = None
    minutes: float | None = None

    def is_due(self, step: int, last_saved_step: int | None, seconds: float) -> bool:
        """Whether the step just done is to be saved.

        Steps count from 0, so ``every(steps=100)`` saves the steps 99, 199, 299, ...: whenever
        another hundred is done. Where steps are left out, it is the first one done behind that.
        ``last_saved_step`` is the one saved last, or resumed from, or None; ``seconds`` have passed
        since then, or since the run began.
        """
        if self.minutes is not None and seconds >= 60 * self.minutes:
            return True
        if self.steps is None:
            return False
        done, done_before = step + 1, 0 if last_saved_step is None else last_saved_step + 1
        return done // self.steps > done_before // self.steps

    @property
    def has_clock(self) -> bool:
        """Whether it asks the time, which is another one in each process."""
        return self.minutes is not None

    def __str__(self) -> str:
        return f"every({shown_period(self.steps, self.minutes)})"


def every(*, steps: int | None = None, minutes: float | None = None) -> Every:
    """Save once every so many steps, or minutes; with both, whichever comes first.

    Raises:
        UsageError: neither is given, or one is not positive.
    """
    if steps is None and minutes is None:
        raise UsageError(
            "every() takes steps= or minutes=",
            found="neither",
            cure="Leave every= out to save at each call of save().",
        )
    return Every(
        None if steps is None else checked_count("every", "steps", steps),
        None if minutes is None else checked_minutes("every", minutes),
    )
