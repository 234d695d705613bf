"""The loop over steps: what happens when a step's body ends, and when a signal came."""

from __future__ import annotations

import logging
import operator
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from holdfast.errors import UsageError
from holdfast.saving.signals import StopSignals
from holdfast.state.capture import Captured, capture
from holdfast.state.equal import differences
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")

Save = Callable[[int, Mapping[str, Any]], object]


class Together(Protocol):
    """Where several processes must stop behind the same step: each asks behind each step."""

    def begin(self) -> None:
        """A loop begins."""

    def stops(
        self, received: signal.Signals | None, *, is_last: bool = False
    ) -> signal.Signals | None:
        """From the signal that came here, to the one that all stop at now."""

    def leave(self) -> None:
        """The loop was left before its end."""

    def part(self) -> None:
        """Return when the loop has ended on all of them."""


class Stepping:
    """The step that is being done, and whether its body saved it last.

    ``metrics`` are those of the body's last call of ``save``, for the case that ``every`` said not
    now and the step is saved all the same, because it is the last one.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        extra: Callable[[], Mapping[str, Any]],
        signals: StopSignals,
        *,
        together: Together | None = None,
    ) -> None:
        self.signals = signals
        self._together = together
        self._stop: signal.Signals | None = None
        self.metrics: dict[str, Any] = {}
        self._parts = {name: part for name, part in parts.items() if part.is_watched}
        self._extra = extra
        self._current: int | None = None
        self._last: int | None = None
        self._saved: dict[str, Any] | None = None
        self._has_warned = False
        self._is_in_body = False

    def run(self, steps: range, save: Save, wait: Callable[[], None]) -> Iterator[int]:
        """Yield each step; save and leave as ``Run.steps`` says."""
        self.signals.begin()
        self._stop, has_ended = None, False
        if self._together is not None:
            self._together.begin()
        self._last = steps[-1]
        try:
            for step in steps:
                self._current, self._saved, self.metrics = step, None, {}
                self._is_in_body = True
                yield step
                self._is_in_body = False
                self._look(is_last=step == self._last)
                self._end_of_body(step, save)
                if self._stopping is not None:
                    break
            wait()
            has_ended = True
            if self._together is not None:
                self._together.part()
            if (stopping := self._stopping) is not None:
                log.warning("stopping after step %d: %s", step, stopping.name)
                self.signals.received = stopping  # another process was told
                raise self.signals.leave()
        finally:
            if self._together is not None and not has_ended:
                self._together.leave()
            if self.signals.received is not None and self._is_in_body:
                log.warning(
                    "the loop was left in step %d, after %s: what the step had done by then is "
                    "saved only if it called run.save(). `with run:` ends the process here; "
                    "without it the program goes on.",
                    self._current,
                    self.signals.received.name,
                )
            self._current = self._last = None
            self._is_in_body = False
            self.signals.restore()

    def step_to_save(self, step: int | None) -> int:
        """The step a call of ``save(step)`` means.

        Raises:
            UsageError: none is known, or it is not the current one.
        """
        if step is not None:
            step = whole(step, "a step is a whole number from 0 on")
        if self._current is None and step is None:
            raise UsageError(
                "save() outside of steps() must be told the step",
                cure="run.save(step), or loop with: for step in run.steps(stop):",
            )
        if self._current is not None and step not in (None, self._current):
            raise UsageError(
                "inside steps() the step is known, and this is another one",
                wanted=f"step {self._current}",
                found=f"step {step}",
                cure="Leave it out: run.save().",
            )
        return self._current if self._current is not None else (step or 0)

    def must_save(self, step: int) -> bool:
        """Whether a step is saved whatever ``every`` says: the last one, and one stopped at."""
        return step == self._last or self._stopping is not None

    @property
    def _stopping(self) -> signal.Signals | None:
        """The signal that this step is the last for; of several processes the agreed one."""
        return self.signals.received if self._together is None else self._stop

    def _look(self, *, is_last: bool = False) -> None:
        if self._together is not None and self._stop is None:
            self._stop = self._together.stops(self.signals.received, is_last=is_last)

    def note_saved(self, captured: Captured) -> None:
        """Keep what must not change any more before the body ends."""
        if self._current is not None and not self._has_warned:
            self._saved = captured.watched(self._parts)
        else:
            self._saved = {}

    def should_stop(self) -> bool:
        """Whether a signal came; listens from now on."""
        self.signals.install()
        if self._current is None:  # within steps() it is decided behind each
            self._look()
        return self._stopping is not None

    def stopped_by(self, error: BaseException | None) -> BaseException | None:
        """What to leave with instead of ``error``, or of going on, after a signal to stop."""
        is_told = self.signals.received is not None and self._together is None
        if not (is_told or self._stop) or not isinstance(error, Exception | type(None)):
            return None
        log.warning(
            "%s after the signal to stop: leaving",
            "the block ended" if error is None else f"{error!r} came",
        )
        return self.signals.leave()

    def _end_of_body(self, step: int, save: Save) -> None:
        if self._saved is None:
            if self.must_save(step):
                save(step, self.metrics)
        elif self._saved and not self._has_warned:
            self._compare(self._saved)

    def _compare(self, saved: Mapping[str, Any]) -> None:
        parts = {name: part for name, part in self._parts.items() if part.is_watched}
        now = capture(parts, self._extra()).watched(parts)
        changed = differences(dict(saved), now)
        if changed:
            self._has_warned = True
            log.warning(
                "%s changed after run.save() in the same step, so the checkpoint holds an older "
                "state and a resumed run would differ. Make run.save() the last line of the body.",
                " and ".join(changed),
            )


def whole(value: Any, rule: str) -> int:
    """``value`` as an int from 0 on; NumPy's whole numbers are taken too.

    Raises:
        UsageError: it is none; the error says ``rule``.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(rule, found=repr(value))
    return number
